#include "verify/checks/data.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "formats/base/text.h"
#include "verify/checks/tensor_scan.h"
#include "formats/base/parallel.h"

namespace q2c {
namespace {

// The part of a quantised linear that holds its codes, and those that hold float parameters.
bool HoldsCodes(const Linear& linear, std::string_view suffix) {
  const PartCodec* part = linear.layout == nullptr ? nullptr : linear.layout->Part(suffix);
  return part != nullptr && (part->components & kCodes) != 0;
}
bool HoldsScales(const Linear& linear, std::string_view suffix) {
  const PartCodec* part = linear.layout == nullptr ? nullptr : linear.layout->Part(suffix);
  return part != nullptr && (part->components & kScales) != 0;
}

// What a tensor is, where a model was made out; else its name and dtype say.
struct Role {
  ScanAs scan = ScanAs::kOther;
  const Linear* linear = nullptr;
  std::string linear_name;
  bool codes = false;
  bool scales = false;
  bool bias = false;
  bool weight = false;  // a dense one
};

std::vector<Role> RolesOf(const CheckInput& input) {
  const std::vector<TensorInfo>& tensors = input.checkpoint->tensors();
  std::vector<Role> roles(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const bool floats = IsFloat16Or32(tensors[i].dtype) || InfoOf(tensors[i].dtype).block > 1;
    roles[i].scan = floats ? ScanAs::kFloats : ScanAs::kOther;
    if (input.model == nullptr) {
      const std::string part = SplitPart(tensors[i].name).second;
      if (part == "qweight" || part == "weight_packed") roles[i].scan = ScanAs::kCodes;
      roles[i].codes = roles[i].scan == ScanAs::kCodes;
      roles[i].scales = part == "scales" || part == "weight_scale";
      roles[i].bias = part == "bias";
    }
  }
  if (input.model == nullptr) return roles;
  for (const auto& [name, linear] : input.model->linears) {
    for (const auto& [suffix, index] : linear.parts) {
      Role& role = roles[index];
      role.linear = &linear;
      role.linear_name = name;
      role.bias = suffix == "bias";
      role.weight = suffix == "weight" && !linear.quantised();
      role.codes = HoldsCodes(linear, suffix) && InfoOf(tensors[index].dtype).block == 1;
      role.scales = HoldsScales(linear, suffix);
      if (role.codes && !role.scales) role.scan = ScanAs::kCodes;
    }
  }
  return roles;
}

// Folds a histogram of bytes into one of codes.
void FoldHistogram(const CodeScan& scan, uint32_t bits, LinearData* data) {
  if (bits != 2 && bits != 4 && bits != 8) return;
  std::array<double, 256> codes{};
  const uint32_t mask = (1U << bits) - 1;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    for (uint32_t shift = 0; shift < 8; shift += bits) codes[(byte >> shift) & mask] += static_cast<double>(scan.bytes[byte]);
  }
  const double total = static_cast<double>(scan.sampled) * (8.0 / bits);
  data->sampled = static_cast<uint64_t>(total);
  if (total == 0) return;
  const uint32_t per_bin = std::max(1U, (mask + 1) / static_cast<uint32_t>(kHistogramBins));
  for (uint32_t code = 0; code <= mask; ++code) {
    const double share = codes[code] / total;
    data->histogram[code / per_bin] += share;
    data->mean += share * code;
    if (share > 0) data->entropy -= share * std::log2(share);
  }
}

void JudgeCodes(const TensorInfo& tensor, const CodeScan& scan, Findings* findings) {
  constexpr uint64_t kPage = 4096;
  if (scan.constant) {
    findings->Add("codes-constant", fmt::format("tensor '{}': all {} are one word, repeated", Escape(tensor.name), HumanBytes(tensor.bytes)), {tensor.name});
  } else if (scan.blank >= kPage) {
    findings->Add("codes-blank", fmt::format("tensor '{}': {} bytes from byte {} on are all the same; whole pages of it were lost", Escape(tensor.name), scan.blank, scan.blank_at), {tensor.name});
  }
}

void JudgeScales(const TensorInfo& tensor, const FloatScan& scan, bool offsets, Findings* findings) {
  const auto say = [&](const char* id, uint64_t count, const char* what) {
    if (count > 0) findings->Add(id, fmt::format("tensor '{}': {} of {} scales are {}", Escape(tensor.name), count, scan.count, what), {tensor.name});
  };
  say("scale-not-finite", scan.not_finite, "NaN or infinite");
  if (offsets) return;
  say("scale-subnormal", scan.subnormal, "subnormal");
  constexpr double kHuge = 100;  // times a code of 8 and an activation of 100 it leaves float16
  if (scan.high > kHuge) findings->Add("scale-huge", fmt::format("tensor '{}': the largest scale is {:.4g}", Escape(tensor.name), scan.high), {tensor.name});
}

void JudgeFloats(const CheckInput& input, const TensorInfo& tensor, const Role& role, const FloatScan& scan, Findings* findings) {
  if (scan.not_finite > 0) findings->Add("value-not-finite", fmt::format("tensor '{}': {} of {} values are NaN or infinite", Escape(tensor.name), scan.not_finite, scan.count), {tensor.name});
  if (InfoOf(tensor.dtype).block > 1 || scan.count == 0) return;
  if (scan.zero == scan.count && !role.bias) {
    findings->Add("tensor-zero", fmt::format("tensor '{}': all {} values are zero", Escape(tensor.name), scan.count), {tensor.name});
  } else if (scan.zero_rows > 0) {
    const bool embedding = tensor.name.find("embed") != std::string::npos || tensor.name.find("wte") != std::string::npos;
    const bool linear = role.linear != nullptr && input.model != nullptr;
    if (embedding) findings->Add("embedding-zero", fmt::format("tensor '{}': {} of {} rows are zero", Escape(tensor.name), scan.zero_rows, tensor.shape[0]), {tensor.name}, 1);
    else if (linear && role.weight) findings->Add("dead-outputs", fmt::format("tensor '{}': {} of {} outputs are zero", Escape(tensor.name), scan.zero_rows, tensor.shape[0]), {tensor.name});
  }
}

// "model.layers.*.mlp.up_proj" and the number.
std::pair<std::string, std::string> LayerOf(const std::string& name) {
  for (size_t at = name.find('.'); at != std::string::npos; at = name.find('.', at + 1)) {
    size_t end = at + 1;
    while (end < name.size() && name[end] >= '0' && name[end] <= '9') ++end;
    if (end > at + 1 && (end == name.size() || name[end] == '.')) return {name.substr(0, at + 1) + "*" + name.substr(end), name.substr(at + 1, end - at - 1)};
  }
  return {name, ""};
}

// Linears of one role with the same content.
void JudgeEqual(const std::vector<LinearData>& linears, Findings* findings) {
  std::map<std::pair<std::string, std::string>, std::vector<const LinearData*>> same;
  for (const LinearData& linear : linears) {
    if (!linear.digest.empty()) same[{LayerOf(linear.name).first, linear.digest}].push_back(&linear);
  }
  for (const auto& [key, group] : same) {
    if (group.size() < 2) continue;
    std::vector<std::string> names;
    for (const LinearData* linear : group) names.push_back(linear->name);
    findings->Add("layers-equal", fmt::format("linears {} hold the same codes", QuoteSome(names, 4)), names, names.size());
  }
}

// A linear whose codes are spread otherwise than those of all others of its width.
void JudgeEntropy(const std::vector<LinearData>& linears, Findings* findings) {
  std::map<uint32_t, std::vector<double>> by_bits;
  for (const LinearData& linear : linears) {
    if (linear.entropy > 0 || linear.sampled > 0) by_bits[linear.bits].push_back(linear.entropy);
  }
  const auto median = [](std::vector<double> values) {
    std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
    return values[values.size() / 2];
  };
  constexpr size_t kEnough = 6;
  // Bits of entropy that healthy linears of one model may differ by: 0.4 was seen at 4 bits, 1.3 at 8.
  const auto least = [](uint32_t bits) { return bits == 8 ? 2.0 : 0.75; };
  for (const auto& [bits, entropies] : by_bits) {
    if (entropies.size() < kEnough) continue;
    const double middle = median(entropies);
    std::vector<double> away;
    for (const double entropy : entropies) away.push_back(std::abs(entropy - middle));
    const double limit = std::max(least(bits), 10 * median(away));
    for (const LinearData& linear : linears) {
      if (linear.bits != bits || linear.sampled == 0 || std::abs(linear.entropy - middle) <= limit) continue;
      findings->Add("codes-odd", fmt::format("linear '{}': its codes have {:.2f} bits of entropy, the median of the model is {:.2f}", Escape(linear.name), linear.entropy, middle), {linear.name});
    }
  }
}

// Scales that are zero, and outputs that have no other. Some layouts pad their scales with
// zeros, so the decoded ones count.
void JudgeZeroScales(const Model& model, const std::string& name, const Linear& linear, Findings* findings) {
  const Result<QuantLinear> decoded = DecodeLinear(model, linear, kScales);
  if (!decoded.ok()) return findings->Add(decoded.error());
  const QuantLinear& scales = decoded.value();
  const QuantShape& shape = scales.shape;
  uint64_t zero = 0;
  uint64_t dead = 0;
  for (uint64_t n = 0; n < shape.out_features; ++n) {
    uint64_t groups = 0;
    for (uint64_t g = 0; g < shape.groups; ++g) groups += scales.Scale(g, n) == 0 ? 1 : 0;
    zero += groups;
    dead += groups == shape.groups ? 1 : 0;
  }
  if (zero > 0) findings->Add("scale-zero", fmt::format("linear '{}': {} of {} scales are zero", Escape(name), zero, shape.groups * shape.out_features), {name});
  if (dead > 0) findings->Add("dead-outputs", fmt::format("linear '{}': {} of {} outputs have only scales of zero", Escape(name), dead, shape.out_features), {name});
}

}  // namespace

Result<DataReport> CheckData(const CheckInput& input, const DataOptions& options, Findings* findings) {
  const std::vector<TensorInfo>& tensors = input.checkpoint->tensors();
  const std::vector<Role> roles = RolesOf(input);
  // The largest first, so that no thread is left with one at the end.
  std::vector<size_t> order(tensors.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return tensors[a].bytes > tensors[b].bytes; });
  std::vector<std::optional<Error>> errors(tensors.size());
  std::vector<TensorScan> scans(tensors.size());
  std::vector<LinearData> folded(tensors.size());
  QC_TRY(RunParallel(order.size(), options.jobs, [&](size_t turn) -> Status {
    const size_t i = order[turn];
    Result<TensorScan> scan = ScanTensor(*input.checkpoint, tensors[i], roles[i].scan, options.check_stop);
    if (scan.ok()) {
      scans[i] = std::move(scan).value();
      if (roles[i].scan == ScanAs::kCodes && roles[i].linear != nullptr) FoldHistogram(scans[i].codes, roles[i].linear->traits.shape.bits, &folded[i]);
      scans[i].codes.bytes = {};
      if (!roles[i].codes) scans[i].digest.clear();
      return {};
    }
    const Code code = scan.error().code;
    if (code == Code::kInterrupted || code == Code::kTerminated || code == Code::kTryAgain) return std::move(scan).TakeError();
    errors[i] = std::move(scan).TakeError();
    return {};
  }));

  DataReport report;
  std::vector<std::string> negative;
  std::map<std::string, LinearData> by_linear;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& tensor = tensors[i];
    const Role& role = roles[i];
    if (errors[i].has_value()) {
      findings->Add(*errors[i]);
      continue;
    }
    report.bytes += tensor.bytes;
    ++report.tensors;
    const TensorScan& scan = scans[i];
    if (role.scan == ScanAs::kCodes) JudgeCodes(tensor, scan.codes, findings);
    const bool offsets = role.linear != nullptr && role.linear->layout != nullptr && role.linear->layout->StoresOffsets();
    if (role.scales && !offsets && InfoOf(tensor.dtype).block == 1 && scan.floats.negative > 0) negative.push_back(tensor.name);  // in GGUF blocks they are the rule
    if (role.scales) JudgeScales(tensor, scan.floats, offsets, findings);
    else if (role.scan == ScanAs::kFloats) JudgeFloats(input, tensor, role, scan.floats, findings);
    if (role.linear == nullptr) continue;
    const auto [found, fresh] = by_linear.emplace(role.linear_name, LinearData());
    LinearData& data = found->second;
    if (role.scan == ScanAs::kCodes) {
      data.sampled = folded[i].sampled;
      data.histogram = folded[i].histogram;
      data.entropy = folded[i].entropy;
      data.mean = folded[i].mean;
    }
    data.name = role.linear_name;
    data.bytes += tensor.bytes;
    data.bits = role.linear->quantised() ? role.linear->traits.shape.bits : 0;
    if (role.codes) data.digest = scan.digest;
    if (role.scales) {
      data.scale_low = scan.floats.low;
      data.scale_high = scan.floats.high;
      data.zero_scales = scan.floats.zero;
    }
  }
  for (auto& [name, data] : by_linear) report.linears.push_back(std::move(data));
  if (!negative.empty()) findings->Add("scale-negative", fmt::format("{} tensors of scales hold negative ones, such as '{}'", negative.size(), Escape(negative.front())), negative, negative.size());
  JudgeEqual(report.linears, findings);
  JudgeEntropy(report.linears, findings);
  if (input.model != nullptr) {
    for (const LinearData& data : report.linears) {
      const Linear& linear = input.model->linears.at(data.name);
      const bool blocks = linear.quantised() && linear.layout->method == "gguf";  // where a block of zeros has the scale zero
      if (data.zero_scales > 0 && data.bits > 0 && !blocks) JudgeZeroScales(*input.model, data.name, linear, findings);
    }
  }
  return report;
}

}  // namespace q2c
