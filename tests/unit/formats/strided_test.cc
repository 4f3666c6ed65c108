// Views gathered from a storage, in every cut, against walking over their elements one by one.
#include "formats/strided.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/unit/support/results.h"

namespace q2c {
namespace {

using Data = std::vector<std::byte>;

struct Storage {
  Data bytes;
  uint64_t reads = 0;
  uint64_t read_bytes = 0;
  uint64_t largest = 0;

  explicit Storage(size_t size) : bytes(size) {
    std::mt19937 random(7);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  }
  Status Gather(const TensorInfo& tensor, uint64_t offset, MutableBytes out) {
    return GatherStrided(tensor, offset, out, [this](uint64_t at, MutableBytes to) -> Status {
      if (at > bytes.size() || to.size() > bytes.size() - at) return Internal("read beyond the end: {} at {}", to.size(), at);
      std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), to.size(), to.begin());
      ++reads;
      read_bytes += to.size();
      largest = std::max<uint64_t>(largest, to.size());
      return {};
    });
  }
};

TensorInfo View(Dtype dtype, Shape shape, std::vector<uint64_t> strides, uint64_t offset) {
  TensorInfo tensor{"t", dtype, shape, 0, offset, *BytesOf(dtype, shape), std::move(strides)};
  return tensor;
}

// Row-major, one element after another.
Data Walk(const TensorInfo& tensor, const Data& storage) {
  const uint64_t width = InfoOf(tensor.dtype).bits / 8;
  Data all;
  for (uint64_t i = 0; i < tensor.bytes / width; ++i) {
    uint64_t rest = i;
    uint64_t at = tensor.offset;
    for (size_t d = tensor.shape.size(); d-- > 0;) {
      at += rest % tensor.shape[d] * tensor.strides[d] * width;
      rest /= tensor.shape[d];
    }
    for (uint64_t b = 0; b < width; ++b) all.push_back(storage[at + b]);
  }
  return all;
}

TEST(StridedTest, EveryCutOfEveryView) {
  Storage storage(4096);
  for (const Dtype dtype : {Dtype::kU8, Dtype::kF16, Dtype::kF32, Dtype::kI64}) {
    const std::vector<TensorInfo> views = {
        View(dtype, {7, 5}, {1, 7}, 16),                 // transposed
        View(dtype, {7, 5}, {5, 1}, 3),                  // in order
        View(dtype, {4, 3}, {20, 2}, 8),                 // every second column
        View(dtype, {6, 4}, {0, 1}, 40),                 // one row repeated
        View(dtype, {6, 4}, {1, 0}, 40),                 // one column repeated
        View(dtype, {3, 3}, {0, 0}, 24),                 // one element
        View(dtype, {5, 4}, {2, 3}, 8),                  // overlapping
        View(dtype, {9}, {11}, 0),
        View(dtype, {2, 3, 4}, {4, 8, 1}, 0),            // permuted
        View(dtype, {2, 3, 2, 3}, {1, 50, 7, 2}, 24),
        View(dtype, {2, 1, 5, 1}, {6, 999, 1, 77}, 0),   // dimensions of 1 with any stride
    };
    for (const TensorInfo& view : views) {
      const Data expected = Walk(view, storage.bytes);
      ASSERT_EQ(expected.size(), view.bytes);
      for (uint64_t offset = 0; offset <= view.bytes; ++offset) {
        for (uint64_t size = 0; size <= view.bytes - offset; size += 1 + size / 9) {
          Data out(size);
          test::Must(storage.Gather(view, offset, out));
          ASSERT_TRUE(std::equal(out.begin(), out.end(), expected.begin() + static_cast<std::ptrdiff_t>(offset))) << NameOf(dtype) << " " << view.strides[0] << " from " << offset << ", " << size << " bytes";
        }
      }
    }
  }
}

TEST(StridedTest, ScalarsHaveNoDimensions) {
  Storage storage(8);
  const TensorInfo scalar = View(Dtype::kF32, {}, {}, 4);
  Data out(4);
  test::Must(storage.Gather(scalar, 0, out));
  EXPECT_TRUE(std::equal(out.begin(), out.end(), storage.bytes.begin() + 4));
}

// Large enough that windows and slices come into play.
TEST(StridedTest, LargeViewsAreFetchedInWindows) {
  Storage storage(24 << 20);
  const std::vector<TensorInfo> views = {
      View(Dtype::kF16, {3000, 2000}, {1, 3000}, 0),           // transposed: rows lie 6 kB apart
      View(Dtype::kF32, {100, 40}, {1, 50'000}, 4),            // rows lie 200 kB apart
      View(Dtype::kF16, {1500, 1000}, {8000, 1}, 0),           // a slice of the columns
      View(Dtype::kI32, {2, 700'000}, {2'000'000, 1}, 0),      // rows of 2.8 MB
      View(Dtype::kI32, {2, 700'000}, {1, 2}, 0),              // pairs
      View(Dtype::kU8, {40, 64}, {500'000, 7}, 100),
  };
  for (const TensorInfo& view : views) {
    const Data expected = Walk(view, storage.bytes);
    storage.reads = storage.read_bytes = storage.largest = 0;
    Data out(view.bytes);
    test::Must(storage.Gather(view, 0, out));
    EXPECT_TRUE(out == expected) << view.strides[0];
    EXPECT_LE(storage.largest, uint64_t{1} << 20U);
    Data middle(std::min<uint64_t>(view.bytes / 3, 5000));
    test::Must(storage.Gather(view, view.bytes / 2 + 1, middle));
    EXPECT_TRUE(std::equal(middle.begin(), middle.end(), expected.begin() + static_cast<std::ptrdiff_t>(view.bytes / 2 + 1)));
  }
  // A whole transposed matrix is read once, not once for each of its rows.
  storage.reads = storage.read_bytes = 0;
  Data out(views[0].bytes);
  test::Must(storage.Gather(views[0], 0, out));
  EXPECT_LE(storage.reads, 20U);
  EXPECT_EQ(storage.read_bytes, views[0].bytes);
}

TEST(StridedTest, WhatWasGatheredIsKeptForAWhile) {
  Storage storage(1 << 20);
  GatheredTensors gathered;
  uint64_t reads = 0;
  const auto read = [&](uint64_t at, MutableBytes out) -> Status {
    ++reads;
    std::copy_n(storage.bytes.begin() + static_cast<std::ptrdiff_t>(at), out.size(), out.begin());
    return {};
  };
  TensorInfo view = View(Dtype::kF16, {300, 200}, {1, 300}, 0);
  const Data expected = Walk(view, storage.bytes);
  for (uint64_t at = 0; at < view.bytes; at += 777) {
    Data out(std::min<uint64_t>(500, view.bytes - at));
    test::Must(gathered.Read(view, at, out, read));
    ASSERT_TRUE(std::equal(out.begin(), out.end(), expected.begin() + static_cast<std::ptrdiff_t>(at)));
  }
  EXPECT_EQ(reads, 1U);
  // A tensor of the same name in another file is another one.
  view.file = 1;
  view.offset = 2;
  Data out(view.bytes);
  test::Must(gathered.Read(view, 0, out, read));
  EXPECT_TRUE(out == Walk(view, storage.bytes));
  EXPECT_EQ(reads, 2U);
  // An expanded one may be large: what is kept stays below its limit, and larger ones are not kept.
  TensorInfo large = View(Dtype::kU8, {70U << 20U}, {0}, 0);
  Data byte(1);
  for (const size_t file : {2U, 3U, 4U, 2U}) {
    large.file = file;
    test::Must(gathered.Read(large, 5, byte, read));
  }
  EXPECT_EQ(reads, 6U);  // the first was given up for the third
  large = View(Dtype::kU8, {200U << 20U}, {0}, 0);
  for (int i = 0; i < 3; ++i) test::Must(gathered.Read(large, 5, byte, read));
  EXPECT_EQ(reads, 9U);
}

}  // namespace
}  // namespace q2c
