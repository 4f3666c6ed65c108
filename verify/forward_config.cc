#include "verify/forward_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "formats/base/text.h"

namespace q2c {
namespace {

bool Given(const Json* json) { return json != nullptr && !json->is_null(); }

Result<double> NumberAt(const Json* object, const char* key, double fallback) {
  const Json* value = object == nullptr ? nullptr : object->Find(key);
  if (!Given(value)) return fallback;
  const std::optional<double> number = value->AsDouble();
  if (!number.has_value() || !std::isfinite(*number)) return Malformed("config-number", "config.json: {} is {}, expected a number", key, Escape(value->Dump(-1), 40));
  return *number;
}

Result<double> PositiveAt(const Json* object, const char* key, double fallback) {
  QC_ASSIGN(const double number, NumberAt(object, key, fallback));
  if (!(number > 0)) return Malformed("config-number", "config.json: {} is {}, expected a number above 0", key, number);
  return number;
}

Result<uint64_t> CountAt(const Json& config, const char* key, std::optional<uint64_t> fallback) {
  const Json* value = config.Find(key);
  const std::optional<uint64_t> number = Given(value) ? value->AsU64() : fallback;
  if (!number.has_value() || *number == 0) return Malformed("config-number", "config.json: {} is {}, expected a whole number above 0", key, Given(value) ? Escape(value->Dump(-1), 40) : "missing");
  return *number;
}

bool FlagAt(const Json& config, const char* key, bool fallback) {
  const Json* value = config.Find(key);
  return value == nullptr ? fallback : value->AsBool().value_or(fallback);
}

std::string TextAt(const Json* object, const char* key, const std::string& fallback) {
  const Json* value = object == nullptr ? nullptr : object->Find(key);
  return value != nullptr && value->is_string() ? value->text() : fallback;
}

// The scaling in effect, under the name of either generation; null if there is none.
const Json* RopeScaling(const Json& config) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* rope = config.Find(key);
    if (rope != nullptr && rope->is_object() && !rope->members().empty()) return rope;
  }
  return nullptr;
}

std::vector<double> PlainFrequencies(double base, uint64_t dim) {
  std::vector<double> plain;
  for (uint64_t i = 0; i < dim / 2; ++i) plain.push_back(1.0 / std::pow(base, static_cast<double>(2 * i) / static_cast<double>(dim)));
  return plain;
}

// As transformers 4.57 computes them (modeling_rope_utils.py), in double.
Status Yarn(const Json& rope, double positions, uint64_t dim, double base, const std::vector<double>& plain, ForwardConfig* forward) {
  QC_ASSIGN(const double factor, PositiveAt(&rope, "factor", 0));
  QC_ASSIGN(const double original, PositiveAt(&rope, "original_max_position_embeddings", positions));
  QC_ASSIGN(const double fast, PositiveAt(&rope, "beta_fast", 32));
  QC_ASSIGN(const double slow, PositiveAt(&rope, "beta_slow", 1));
  const auto magnitude = [&](double scale) { return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0; };
  QC_ASSIGN(const double mscale, NumberAt(&rope, "mscale", 0));
  QC_ASSIGN(const double mscale_all, NumberAt(&rope, "mscale_all_dim", 0));
  QC_ASSIGN(const double scale, NumberAt(&rope, "attention_factor", mscale != 0 && mscale_all != 0 ? magnitude(mscale) / magnitude(mscale_all) : magnitude(1)));
  forward->rope_scale = static_cast<float>(scale);
  // Below `low` a dimension keeps its frequency, above `high` it is slowed down by the factor.
  const auto dimension = [&](double rotations) { return static_cast<double>(dim) * std::log(original / (rotations * 2 * std::numbers::pi)) / (2 * std::log(base)); };
  const bool truncate = FlagAt(rope, "truncate", true);
  const double low = std::max(0.0, truncate ? std::floor(dimension(fast)) : dimension(fast));
  double high = std::min(static_cast<double>(dim) - 1, truncate ? std::ceil(dimension(slow)) : dimension(slow));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double slowed = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    forward->inverse_frequencies.push_back(static_cast<float>(plain[i] / factor * slowed + plain[i] * (1 - slowed)));
  }
  return {};
}

Status ReadRope(const Json& config, double fallback_base, ForwardConfig* forward) {
  const Json* parameters = config.Find("rope_parameters");
  QC_ASSIGN(const double inner, PositiveAt(parameters, "rope_theta", fallback_base));
  QC_ASSIGN(const double base, PositiveAt(&config, "rope_theta", inner));
  forward->rope_base = base;
  const uint64_t dim = forward->head_dim;
  const std::vector<double> plain = PlainFrequencies(base, dim);

  const Json* rope = RopeScaling(config);
  const std::string type = TextAt(rope, "rope_type", TextAt(rope, "type", "default"));
  QC_ASSIGN(forward->max_positions, CountAt(config, "max_position_embeddings", 32768));
  if (type == "yarn") return Yarn(*rope, static_cast<double>(forward->max_positions), dim, base, plain, forward);
  double slower = 1;
  if (type == "linear") {
    QC_ASSIGN(slower, PositiveAt(rope, "factor", 0));
  } else if (type == "dynamic") {
    QC_ASSIGN(forward->dynamic_factor, PositiveAt(rope, "factor", 0));
  } else if (type != "default" && type != "mrope") {  // mrope is the plain one for text
    return MakeError(Code::kNotRun, "forward", "config.json: rope type '{}' is not known; default, linear, dynamic and yarn are", Escape(type, 60));
  }
  for (const double frequency : plain) forward->inverse_frequencies.push_back(static_cast<float>(frequency / slower));
  return {};
}

// Which layers see a window only, as transformers does from 4.53 on.
Status ReadWindows(const Json& config, ForwardConfig* forward) {
  forward->window.resize(forward->layers);
  const Json* types = config.Find("layer_types");
  const bool listed = types != nullptr && types->is_array() && types->items().size() == forward->layers;
  if (!FlagAt(config, "use_sliding_window", false) || (config.Find("sliding_window") != nullptr && config.Find("sliding_window")->is_null())) return {};
  QC_ASSIGN(const uint64_t window, CountAt(config, "sliding_window", 4096));
  QC_ASSIGN(const double first, NumberAt(&config, "max_window_layers", 28));
  for (size_t i = 0; i < forward->layers; ++i) {
    const bool slides = listed ? types->items()[i].is_string() && types->items()[i].text() == "sliding_attention" : static_cast<double>(i) >= first;
    if (slides) forward->window[i] = window;
  }
  return {};
}

}  // namespace

std::vector<float> ForwardConfig::Frequencies(uint64_t length) const {
  if (!dynamic_factor.has_value() || length <= max_positions) return inverse_frequencies;
  const double stretch = *dynamic_factor * static_cast<double>(length) / static_cast<double>(max_positions) - (*dynamic_factor - 1);
  const auto dim = static_cast<double>(head_dim);
  const std::vector<double> plain = PlainFrequencies(rope_base * std::pow(stretch, dim / (dim - 2)), head_dim);
  return {plain.begin(), plain.end()};
}

Status CanRunForward(const Model& model) {
  if (!model.architecture.IsGeneric()) return {};
  return MakeError(Code::kNotRun, "forward", "not run: what a model of type '{}' computes is not known", Escape(model.architecture.model_type));
}

Result<ForwardConfig> ReadForwardConfig(const Model& model) {
  QC_TRY(CanRunForward(model));
  const Json& config = model.config;
  const Json& defaults = *model.architecture.definition.Find("config");
  const auto number = [&](const char* key) { return Json::Number(defaults.Find(key)->text()).AsDouble().value_or(0); };
  ForwardConfig forward;
  forward.layers = model.skeleton.layers;
  forward.hidden = model.skeleton.tensors.at("model.norm.weight").shape[0];
  QC_ASSIGN(forward.heads, CountAt(config, "num_attention_heads", {}));
  const ExpectedLinear& query = model.skeleton.linears.at("model.layers.0.self_attn.q_proj");
  const ExpectedLinear& key = model.skeleton.linears.at("model.layers.0.self_attn.k_proj");
  forward.head_dim = query.out_features / forward.heads;
  forward.kv_heads = key.out_features / forward.head_dim;
  if (forward.head_dim % 2 != 0) return MakeError(Code::kNotRun, "forward", "heads of {} dimensions cannot be rotated in halves", forward.head_dim);
  const std::string activation = TextAt(&config, "hidden_act", "silu");
  if (activation != "silu") return MakeError(Code::kNotRun, "forward", "config.json: hidden_act is '{}', only silu is known", Escape(activation, 60));
  QC_ASSIGN(const double eps, PositiveAt(&config, "rms_norm_eps", number("rms_norm_eps_default")));
  forward.norm_eps = static_cast<float>(eps);
  QC_TRY(ReadRope(config, number("rope_theta_default"), &forward));
  QC_TRY(ReadWindows(config, &forward));
  if (const Json* moe = model.architecture.definition.Find("moe"); moe != nullptr) {
    QC_ASSIGN(forward.experts_per_token, CountAt(config, "num_experts_per_tok", Json::Number(moe->Find("experts_per_token_default")->text()).AsU64()));
    forward.normalise_experts = FlagAt(config, "norm_topk_prob", moe->Find("normalise_default")->AsBool().value_or(false));
  }
  return forward;
}

}  // namespace q2c
