#include "formats/strided.h"

#include <algorithm>

namespace q2c {
namespace {

constexpr uint64_t kWindowBytes = 1U << 20U;  // fetched at once
constexpr uint64_t kGapBytes = 8U << 10U;     // cheaper to read over than to read around

// One dimension of a box: how many, how far apart in the file and in the output, in bytes.
struct Dimension {
  uint64_t count = 1;
  uint64_t from = 0;
  uint64_t to = 0;
};

class Gatherer {
 public:
  Gatherer(const TensorInfo& tensor, const std::function<Status(uint64_t, MutableBytes)>& read) : tensor_(tensor), read_(read), width_(InfoOf(tensor.dtype).bits / 8) {}

  // Elements [first, last) of dimensions d, d+1, …, which begin at byte `base` of the file. At most one box in the
  // middle and a ragged rest on either side.
  Status Range(size_t d, uint64_t first, uint64_t last, uint64_t base, std::byte** out) {
    if (first == last) return {};
    if (d == tensor_.shape.size()) return Box(d, 0, 0, base, out);  // a single element
    uint64_t inner = 1;
    for (size_t i = d + 1; i < tensor_.shape.size(); ++i) inner *= tensor_.shape[i];
    const uint64_t stride = tensor_.strides[d] * width_;
    const auto part = [&](uint64_t index, uint64_t from, uint64_t to) { return Range(d + 1, from, to, base + index * stride, out); };
    uint64_t row = first / inner;
    const uint64_t end = last / inner;
    if (row == end) return part(row, first % inner, last % inner);
    if (first % inner != 0) {
      QC_TRY(part(row, first % inner, inner));
      ++row;
    }
    if (row < end) QC_TRY(Box(d, row, end, base, out));
    return part(end, 0, last % inner);
  }

 private:
  // Indices [lo, hi) of dimension d and all of the inner ones.
  Status Box(size_t d, uint64_t lo, uint64_t hi, uint64_t base, std::byte** out) {
    std::vector<Dimension> dims;
    uint64_t to = width_;
    for (size_t i = tensor_.shape.size(); i-- > d;) {
      const uint64_t count = i == d ? hi - lo : tensor_.shape[i];
      if (count > 1) dims.push_back({count, tensor_.strides[i] * width_, to});
      to *= count;
    }
    if (d < tensor_.shape.size()) base += lo * tensor_.strides[d] * width_;
    std::ranges::stable_sort(dims, {}, &Dimension::from);
    // The innermost dimensions that lie close together are fetched at once, the last of them in slices if need be.
    uint64_t span = width_;
    size_t joined = 0;
    for (; joined < dims.size(); ++joined) {
      Dimension& dim = dims[joined];
      if (dim.from > span + kGapBytes) break;
      const uint64_t room = span >= kWindowBytes || dim.from == 0 ? 0 : (kWindowBytes - span) / dim.from;
      if (dim.from != 0 && dim.count - 1 > room) {
        const uint64_t slice = room + 1;
        if (slice == 1) break;
        return Slices(dims, joined, slice, base, out);
      }
      span += (dim.count - 1) * dim.from;
    }
    window_.resize(span);
    QC_TRY(Outer(dims, joined, dims.size(), base, *out));
    *out += to;
    return {};
  }

  // The dimension `cut` in slices of at most `slice`.
  Status Slices(const std::vector<Dimension>& dims, size_t cut, uint64_t slice, uint64_t base, std::byte** out) {
    uint64_t elements = 1;
    for (const Dimension& dim : dims) elements *= dim.count;
    for (uint64_t first = 0; first < dims[cut].count; first += slice) {
      std::vector<Dimension> part = dims;
      part[cut].count = std::min(slice, dims[cut].count - first);
      uint64_t span = width_;
      for (size_t i = 0; i <= cut; ++i) span += (part[i].count - 1) * part[i].from;
      window_.resize(span);
      QC_TRY(Outer(part, cut + 1, part.size(), base + first * part[cut].from, *out + first * part[cut].to));
    }
    *out += elements * width_;
    return {};
  }

  // Every place of dimensions [joined, d): fetches a window and scatters it.
  Status Outer(const std::vector<Dimension>& dims, size_t joined, size_t d, uint64_t from, std::byte* to) {
    if (d > joined) {
      const Dimension& dim = dims[d - 1];
      for (uint64_t i = 0; i < dim.count; ++i) QC_TRY(Outer(dims, joined, d - 1, from + i * dim.from, to + i * dim.to));
      return {};
    }
    QC_TRY(read_(from, window_));
    Scatter(dims, joined, window_.data(), to);
    return {};
  }

  void Scatter(const std::vector<Dimension>& dims, size_t d, const std::byte* from, std::byte* to) {
    if (d == 0) {
      std::memcpy(to, from, width_);
      return;
    }
    const Dimension& dim = dims[d - 1];
    if (d == 1 && dim.from == width_ && dim.to == width_) {
      std::memcpy(to, from, dim.count * width_);
      return;
    }
    for (uint64_t i = 0; i < dim.count; ++i) Scatter(dims, d - 1, from + i * dim.from, to + i * dim.to);
  }

  const TensorInfo& tensor_;
  const std::function<Status(uint64_t, MutableBytes)>& read_;
  uint64_t width_;
  std::vector<std::byte> window_;
};

}  // namespace

Status GatherStrided(const TensorInfo& tensor, uint64_t offset, MutableBytes out, const std::function<Status(uint64_t, MutableBytes)>& read) {
  const uint64_t width = InfoOf(tensor.dtype).bits / 8;
  Gatherer gatherer(tensor, read);
  const uint64_t first = offset / width;
  const uint64_t last = CeilDiv(offset + out.size(), width);
  if (offset % width == 0 && out.size() % width == 0) {
    std::byte* to = out.data();
    return gatherer.Range(0, first, last, tensor.offset, &to);
  }
  // Part of an element at either end.
  std::vector<std::byte> whole((last - first) * width);
  std::byte* to = whole.data();
  QC_TRY(gatherer.Range(0, first, last, tensor.offset, &to));
  std::ranges::copy(MutableBytes(whole).subspan(offset % width, out.size()), out.begin());
  return {};
}

Result<GatheredTensors::Bytes> GatheredTensors::Whole(const TensorInfo& tensor, const std::function<Status(uint64_t, MutableBytes)>& read) {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find_if(kept_, [&](const Kept& kept) { return kept.file == tensor.file && kept.name == tensor.name; });
  if (found != kept_.end()) {
    std::rotate(found, found + 1, kept_.end());
    return kept_.back().bytes;
  }
  for (; !kept_.empty() && total_ + tensor.bytes > kMaxAll; kept_.pop_front()) total_ -= kept_.front().bytes->size();
  std::vector<std::byte> bytes(tensor.bytes);
  QC_TRY(GatherStrided(tensor, 0, bytes, read));
  total_ += bytes.size();
  kept_.push_back({tensor.file, tensor.name, std::make_shared<const std::vector<std::byte>>(std::move(bytes))});
  return kept_.back().bytes;
}

Status GatheredTensors::Read(const TensorInfo& tensor, uint64_t offset, MutableBytes out, const std::function<Status(uint64_t, MutableBytes)>& read) {
  if (tensor.bytes > kMaxKept) return GatherStrided(tensor, offset, out, read);
  QC_ASSIGN(const Bytes whole, Whole(tensor, read));
  std::memcpy(out.data(), whole->data() + offset, out.size());
  return {};
}

}  // namespace q2c
