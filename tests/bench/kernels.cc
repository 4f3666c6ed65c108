// Rates of the single kernels: codecs, hashes and the product of the forward pass, beside what
// the machine can do. Run by scripts/bench.sh kernels.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/kernels.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace q2c::HWY_NAMESPACE {

// Independent chains of fused multiply-adds, as many as hide their latency: nothing is loaded
// or stored, so nothing can be faster. Returns the number of floating-point operations.
double FusedChains(uint64_t rounds, float* sum) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::CappedTag<float, 64> d;
  const auto factor = hn::Set(d, 1.0000001F);
  auto a = hn::Set(d, 1.0F), b = a, c = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a;
  for (uint64_t r = 0; r < rounds; ++r) {
    a = hn::MulAdd(a, factor, factor), b = hn::MulAdd(b, factor, factor), c = hn::MulAdd(c, factor, factor), e = hn::MulAdd(e, factor, factor), f = hn::MulAdd(f, factor, factor);
    g = hn::MulAdd(g, factor, factor), h = hn::MulAdd(h, factor, factor), i = hn::MulAdd(i, factor, factor), j = hn::MulAdd(j, factor, factor), k = hn::MulAdd(k, factor, factor);
  }
  *sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(hn::Add(a, b), hn::Add(c, e)), hn::Add(hn::Add(hn::Add(f, g), hn::Add(h, i)), hn::Add(j, k)))));
  return static_cast<double>(rounds) * 10 * 2 * static_cast<double>(hn::Lanes(d));
}

}  // namespace q2c::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <benchmark/benchmark.h>

#include <cstring>
#include <random>

#include "formats/base/hash.h"
#include "formats/layouts/layout.h"
#include "verify/kernels.h"

namespace q2c {
namespace {

HWY_EXPORT(FusedChains);

constexpr uint64_t kTokens = 16;
constexpr uint64_t kIn = 4096;
constexpr uint64_t kOut = 4096;
constexpr uint64_t kGroup = 32;  // which every layout of 4 bits can hold

void Flops(benchmark::State& state, double each) {
  state.counters["FLOP/s"] = benchmark::Counter(each, benchmark::Counter::kIsIterationInvariantRate);
}
void Bytes(benchmark::State& state, uint64_t each) { state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(each)); }

void PeakFloat32(benchmark::State& state) {
  float sum = 0;
  double operations = 0;
  for ([[maybe_unused]] auto each : state) {
    operations = HWY_DYNAMIC_DISPATCH(FusedChains)(100000, &sum);
    benchmark::DoNotOptimize(sum);
  }
  Flops(state, operations);
  state.SetLabel(std::string(VectorUnit()));
}

// As the forward pass uses it: panels that were just filled, a strip of activations.
void Product(benchmark::State& state) {
  const std::vector<float> x(kTokens * kProductInputs, 0.5F);
  const std::vector<float> panel(kProductInputs * kPanelOutputs, 0.25F);
  std::vector<float> y(kTokens * kPanelOutputs);
  for ([[maybe_unused]] auto each : state) {
    AddProduct(x.data(), kProductInputs, kTokens, panel.data(), kProductInputs, y.data(), kPanelOutputs);
    benchmark::DoNotOptimize(y.data());
  }
  Flops(state, 2.0 * kTokens * kProductInputs * kPanelOutputs);
  state.SetLabel(std::to_string(kTokens) + " tokens");
}

std::vector<std::byte> Noise(uint64_t bytes) {
  std::mt19937_64 random(7);
  std::vector<std::byte> noise(bytes);
  for (uint64_t i = 0; i + 8 <= bytes; i += 8) Store(noise.data() + i, uint64_t{random()});
  return noise;
}

constexpr uint64_t kBlock = 16U << 20U;

void Memcpy(benchmark::State& state) {
  const std::vector<std::byte> from = Noise(kBlock);
  std::vector<std::byte> to(kBlock);
  for ([[maybe_unused]] auto each : state) {
    std::memcpy(to.data(), from.data(), kBlock);
    benchmark::DoNotOptimize(to.data());
  }
  Bytes(state, kBlock);
}
void Sha256Digest(benchmark::State& state) {
  const std::vector<std::byte> block = Noise(kBlock);
  for ([[maybe_unused]] auto each : state) benchmark::DoNotOptimize(Sha256::Of(block));
  Bytes(state, kBlock);
}
void Xxh3Digest(benchmark::State& state) {
  const std::vector<std::byte> block = Noise(kBlock);
  for ([[maybe_unused]] auto each : state) benchmark::DoNotOptimize(Xxh3::Of(block));
  Bytes(state, kBlock);
}

QuantLinear Linear() {
  QuantLinear linear;
  linear.shape = {kIn, kOut, kIn / kGroup, kGroup, 4};
  const std::vector<std::byte> noise = Noise(kIn * kOut / 2);
  linear.codes.resize(noise.size() / sizeof(uint32_t));
  std::memcpy(linear.codes.data(), noise.data(), noise.size());
  const uint64_t fields = linear.shape.groups * kOut;
  linear.zeros.assign(fields, 8);
  for (uint64_t i = 0; i < fields; ++i) {
    linear.scales.push_back(std::byte{0});
    linear.scales.push_back(std::byte{0x20});  // 2^-7
  }
  for (uint64_t k = 0; k < kIn; ++k) linear.group_index.push_back(static_cast<int32_t>(k / kGroup));
  return linear;
}

// All parts of one layout, in bytes stored a second.
struct Stored {
  QuantLinear linear = Linear();
  std::vector<std::vector<std::byte>> parts;
  uint64_t bytes = 0;

  explicit Stored(const Layout& layout) {
    for (const PartCodec& part : layout.parts) {
      parts.emplace_back(BytesOf(part.dtype.value_or(linear.scale_dtype), part.shape(linear.shape)).value_or(0));
      bytes += parts.back().size();
    }
  }
  Status Encode(const Layout& layout) {
    for (size_t i = 0; i < parts.size(); ++i) QC_TRY(layout.parts[i].encode(linear, parts[i]));
    return {};
  }
  Status Decode(const Layout& layout) const {
    QuantLinear decoded;
    decoded.shape = linear.shape;
    for (size_t i = 0; i < parts.size(); ++i) QC_TRY(layout.parts[i].decode(parts[i], &decoded));
    benchmark::DoNotOptimize(decoded.codes.data());
    return {};
  }
};

void Encode(benchmark::State& state, const Layout* layout) {
  Stored stored(*layout);
  for ([[maybe_unused]] auto each : state) {
    if (const Status status = stored.Encode(*layout); !status.ok()) return state.SkipWithError(status.error().message.c_str());
  }
  Bytes(state, stored.bytes);
}
void Decode(benchmark::State& state, const Layout* layout) {
  Stored stored(*layout);
  Status status = stored.Encode(*layout);
  for ([[maybe_unused]] auto each : state) {
    if (status.ok()) status = stored.Decode(*layout);
    if (!status.ok()) return state.SkipWithError(status.error().message.c_str());
  }
  Bytes(state, stored.bytes);
}

}  // namespace
}  // namespace q2c

int main(int argc, char** argv) {
  using namespace q2c;
  benchmark::RegisterBenchmark("peak float32, fused multiply-adds alone", PeakFloat32);
  benchmark::RegisterBenchmark("product of the forward pass", Product);
  benchmark::RegisterBenchmark("memcpy", Memcpy);
  benchmark::RegisterBenchmark("SHA-256", Sha256Digest);
  benchmark::RegisterBenchmark("XXH3", Xxh3Digest);
  const QuantTraits traits{Linear().shape, Dtype::kF16, true, false, false, false, ""};
  for (const Layout& layout : Layouts()) {
    const uint64_t any[] = {kGroup};
    if (layout.Refuses(traits).has_value() || layout.GroupSizeFor(traits.shape, any) != kGroup) continue;
    benchmark::RegisterBenchmark(("encode " + std::string(layout.name)).c_str(), Encode, &layout);
    if (!layout.IsDense()) benchmark::RegisterBenchmark(("decode " + std::string(layout.name)).c_str(), Decode, &layout);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
#endif  // HWY_ONCE
