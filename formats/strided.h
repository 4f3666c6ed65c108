// Tensors whose elements do not lie back to back in their file: transposed, sliced and expanded views.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "formats/tensor.h"

namespace q2c {

// Bytes [offset, offset + out.size()) of the tensor as if it were stored row-major. `read` fills its argument from
// a place in the file; runs that lie near each other are fetched together, at most a megabyte at a time.
Status GatherStrided(const TensorInfo& tensor, uint64_t offset, MutableBytes out, const std::function<Status(uint64_t, MutableBytes)>& read);

// Keeps the views that were gathered last, whole, since a linear is read a few rows and columns at a time and each
// of these lies all over its storage. Tensors above kMaxKept bytes are not kept. May be used by many threads.
class GatheredTensors {
 public:
  static constexpr uint64_t kMaxKept = 128U << 20U;   // a linear of 72B
  static constexpr uint64_t kMaxAll = 160U << 20U;

  // As GatherStrided.
  Status Read(const TensorInfo& tensor, uint64_t offset, MutableBytes out, const std::function<Status(uint64_t, MutableBytes)>& read);

 private:
  using Bytes = std::shared_ptr<const std::vector<std::byte>>;
  struct Kept {
    size_t file = 0;
    std::string name;
    Bytes bytes;
  };
  Result<Bytes> Whole(const TensorInfo& tensor, const std::function<Status(uint64_t, MutableBytes)>& read);

  std::mutex mutex_;        // guards all below
  std::deque<Kept> kept_;   // the one used last at the end
  uint64_t total_ = 0;
};

}  // namespace q2c
