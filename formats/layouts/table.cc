// The one list of layouts.
#include "formats/layouts/gptq.h"
#include "formats/layouts/layout.h"

#include <algorithm>
#include <array>

namespace q2c {

std::span<const Layout> Layouts() {
  static const std::array kLayouts = {
      // name, checkpoint_format, parts, refuses, detect
      Layout{"gptq-v1", "gptq", kGptqV1Parts, GptqV1Refuses, DetectGptq},
      Layout{"gptq-v2", "gptq_v2", kGptqV2Parts, GptqV2Refuses, DetectGptq},
  };
  return kLayouts;
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
      Foreign{"awq", "", "AWQ"},
      Foreign{"compressed-tensors", "weight_packed", "compressed-tensors"},
      Foreign{"bitsandbytes", "absmax", "bitsandbytes"},
      Foreign{"marlin", "B", "serialised Marlin"},
      Foreign{"exl2", "q_weight", "EXL2"},
      Foreign{"exl3", "trellis", "EXL3"},
      Foreign{"hqq", "W_q", "HQQ"},
      Foreign{"aqlm", "codebooks", "AQLM"},
      Foreign{"vptq", "centroids", "VPTQ"},
      Foreign{"spqr", "dense_weights", "SpQR"},
      Foreign{"qqq", "s_channel", "QQQ"},
      Foreign{"fp8", "weight_scale_inv", "FP8"},
      Foreign{"bitblas", "", "BitBLAS"},
  };
  for (const Foreign& row : kForeign) {
    const bool by_suffix = !row.suffix.empty() && std::ranges::any_of(parts, [&](const TensorInfo* part) {
      return part->name.ends_with(std::string(".").append(row.suffix));
    });
    if (quant_method == row.quant_method || by_suffix) {
      return fmt::format("the linears are stored as {}, which this version does not read; it reads GPTQ (v1 and v2)", row.what);
    }
  }
  return std::nullopt;
}

}  // namespace q2c
