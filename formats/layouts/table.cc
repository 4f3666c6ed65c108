// The one list of layouts.
#include <algorithm>
#include <array>

#include "formats/layouts/awq.h"
#include "formats/layouts/compressed_tensors.h"
#include "formats/layouts/dense.h"
#include "formats/layouts/gguf_blocks.h"
#include "formats/layouts/gptq.h"
#include "formats/layouts/layout.h"
#include "formats/layouts/marlin.h"
#include "formats/layouts/mlx.h"

namespace q2c {
namespace {

constexpr std::array<uint32_t, 4> kGptqBits = {2, 3, 4, 8};
constexpr std::array<uint32_t, 1> kThreeBits = {3};
constexpr std::array<uint32_t, 1> kFourBits = {4};
constexpr std::array<uint32_t, 3> kUpToFourBits = {2, 3, 4};
constexpr std::array<uint64_t, 2> kMarlinGroups = {128, 0};  // 0: one group
constexpr std::array<uint64_t, 3> kMlxGroups = {32, 64, 128};
constexpr std::array<uint64_t, 1> kBlockGroups = {32};
constexpr bool kRagged = true;
constexpr bool kActOrder = true;
constexpr bool kSameCodes = true;

}  // namespace

// Each linear takes the first layout that recognises its parts; GPTQ, which takes any part of its
// own for a sign of itself, comes after those that share a suffix with it.
std::span<const Layout> Layouts() {
  static const std::array kLayouts = {
      // name, method and format in a config, parts, bits, group sizes, ragged, act-order, refuses, rounds, same codes, detect, sizes
      Layout{"awq-gemm", "awq", "gemm", kAwqGemmParts, kFourBits, {}, !kRagged, !kActOrder, AwqGemmRefuses, nullptr, kSameCodes, DetectAwqGemm, AwqGemmSizes},
      Layout{"awq-gemv", "awq", "gemv", kAwqGemvParts, kFourBits, {}, !kRagged, !kActOrder, AwqGemvRefuses, nullptr, kSameCodes, DetectAwqGemv, AwqGemvSizes},
      Layout{"awq-gemv-fast", "awq", "gemv_fast", kAwqGemvFastParts, kFourBits, {}, !kRagged, !kActOrder, AwqGemvFastRefuses, AwqGemvFastRounds, kSameCodes, DetectAwqGemvFast, AwqGemvFastSizes},
      Layout{"marlin", "marlin", "marlin", kMarlinParts, kFourBits, kMarlinGroups, !kRagged, !kActOrder, MarlinRefuses, MarlinRounds, kSameCodes, DetectMarlin, MarlinSizes},
      Layout{"mlx", "mlx", "affine", kMlxParts, kGptqBits, kMlxGroups, !kRagged, !kActOrder, MlxRefuses, MlxRounds, kSameCodes, DetectMlx, MlxSizes},
      Layout{"gptq-v1", "gptq", "gptq", kGptqV1Parts, kGptqBits, {}, kRagged, kActOrder, GptqV1Refuses, nullptr, kSameCodes, DetectGptq, GptqSizes},
      Layout{"gptq-v2", "gptq", "gptq_v2", kGptqV2Parts, kGptqBits, {}, kRagged, kActOrder, GptqV2Refuses, nullptr, kSameCodes, DetectGptq, GptqSizes},
      Layout{"compressed-tensors", "compressed-tensors", "pack-quantized", kCompressedTensorsParts, kGptqBits, {}, !kRagged, !kActOrder, nullptr, nullptr, kSameCodes, DetectCompressedTensors, CompressedTensorsSizes},
      Layout{"compressed-tensors-2025", "compressed-tensors", "pack-quantized", kCompressedTensors2025Parts, kThreeBits, {}, !kRagged, !kActOrder, nullptr, nullptr, kSameCodes, DetectCompressedTensors2025},
      Layout{"gguf-q4_0", "gguf", "Q4_0", kQ40Parts, kUpToFourBits, kBlockGroups, kRagged, !kActOrder, Q40Refuses, Q40Rounds, !kSameCodes, DetectQ40},
      Layout{"gguf-q4_1", "gguf", "Q4_1", kQ41Parts, kUpToFourBits, kBlockGroups, kRagged, !kActOrder, Q41Refuses, Q41Rounds, kSameCodes, DetectQ41},
      Layout{"gguf-q8_0", "gguf", "Q8_0", kQ80Parts, kGptqBits, kBlockGroups, kRagged, !kActOrder, Q80Refuses, Q40Rounds, !kSameCodes, DetectQ80},
      Layout{"dense-fp16", "", "float16", kDenseF16Parts, kGptqBits, {}, kRagged, kActOrder, nullptr, DenseF16Rounds, !kSameCodes, DetectDense},
      Layout{"dense-bf16", "", "bfloat16", kDenseBf16Parts, kGptqBits, {}, kRagged, kActOrder, nullptr, DenseBf16Rounds, !kSameCodes, DetectDense},
      Layout{"dense-fp32", "", "float32", kDenseF32Parts, kGptqBits, {}, kRagged, kActOrder, nullptr, DenseF32Rounds, !kSameCodes, DetectDense},
  };
  return kLayouts;
}

std::vector<std::string> LayoutNames() {
  std::vector<std::string> names;
  for (const Layout& layout : Layouts()) names.emplace_back(layout.name);
  return names;
}

const Layout* FindLayout(std::string_view name) {
  const auto found = std::ranges::find(Layouts(), name, &Layout::name);
  return found == Layouts().end() ? nullptr : &*found;
}

std::optional<std::string> ForeignQuantisation(std::string_view quant_method, std::span<const TensorInfo* const> parts) {
  struct Foreign {
    std::string_view quant_method;  // in the config, or
    std::string_view suffix;        // a part that only it has
    std::string_view what;
  };
  static constexpr std::array kForeign = {
      Foreign{"marlin_24", "B_24", "Marlin 2:4 (sparse)"},
      Foreign{"bitsandbytes", "absmax", "bitsandbytes"},
      Foreign{"exl2", "q_weight", "EXL2"},
      Foreign{"exl3", "trellis", "EXL3"},
      Foreign{"hqq", "W_q", "HQQ"},
      Foreign{"aqlm", "codebooks", "AQLM"},
      Foreign{"vptq", "centroids", "VPTQ"},
      Foreign{"spqr", "dense_weights", "SpQR"},
      Foreign{"qqq", "s_channel", "QQQ"},
      Foreign{"fp8", "weight_scale_inv", "FP8"},
      Foreign{"fbgemm_fp8", "", "FP8 (fbgemm)"},
      Foreign{"modelopt", "input_scale", "FP8 or FP4 (ModelOpt)"},
      Foreign{"mxfp4", "weight_blocks", "MXFP4"},
      Foreign{"nvfp4", "weight_scale_2", "NVFP4"},
      Foreign{"bitblas", "qscales", "BitBLAS"},
      Foreign{"torchao", "", "torchao"},
      Foreign{"quanto", "", "quanto"},
      Foreign{"eetq", "", "EETQ"},
      Foreign{"higgs", "", "HIGGS"},
      Foreign{"bitnet", "", "BitNet"},
  };
  for (const Foreign& row : kForeign) {
    const bool by_suffix = !row.suffix.empty() && std::ranges::any_of(parts, [&](const TensorInfo* part) {
      return part->name.ends_with(std::string(".").append(row.suffix));
    });
    if ((!quant_method.empty() && quant_method == row.quant_method) || by_suffix) {
      return fmt::format("the linears are stored as {}, which this version does not read; it reads GPTQ, AWQ, compressed-tensors, Marlin, MLX and GGUF", row.what);
    }
  }
  return std::nullopt;
}

}  // namespace q2c
