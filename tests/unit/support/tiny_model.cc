#include "tests/unit/support/tiny_model.h"

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c::test {
namespace {

StoredTensor Floats(const std::string& name, const std::vector<uint64_t>& shape, uint32_t seed) {
  uint64_t count = 1;
  for (const uint64_t dim : shape) count *= dim;
  std::vector<uint16_t> halves(count);
  for (uint64_t i = 0; i < count; ++i) halves[i] = static_cast<uint16_t>(0x2000U + (i * 37 + seed) % 0x1000U);  // 0.008 … 0.5
  return {name, "F16", shape, BytesOfWords(halves)};
}

void AddLinear(const TinyLinear& linear, uint32_t seed, TinyModel* model) {
  const TinyOptions& o = model->options;
  Random random(seed);
  const uint64_t groups = CeilDiv(linear.in, o.group_size);
  const uint32_t max = (1U << o.bits) - 1;
  const uint32_t middle = 1U << (o.bits - 1);
  Bytes qweight(linear.in * o.bits / 8 * linear.out);
  Bytes qzeros(groups * linear.out * o.bits / 8);
  std::vector<uint16_t> scales(groups * linear.out);
  std::vector<int32_t> g_idx(linear.in);
  for (uint64_t g = 0; g < groups; ++g) {
    for (uint64_t n = 0; n < linear.out; ++n) {
      const uint32_t zero = o.symmetric ? middle : 1 + random.Below(max - 1);
      PutZeroField(&qzeros, o.bits, linear.out, g, n, zero - o.minus);
      scales[g * linear.out + n] = static_cast<uint16_t>(0x1400U + random.Below(0x800));
      for (uint64_t k = g * o.group_size; k < std::min(linear.in, (g + 1) * o.group_size); ++k) {
        // Around the zero point, as weights are: the mean of (code − zero) is 0.
        const uint32_t reach = std::min(zero, max - zero);
        PutCode(&qweight, o.bits, linear.out, k, n, zero - reach + random.Below(2 * reach + 1));
      }
    }
  }
  for (uint64_t k = 0; k < linear.in; ++k) g_idx[k] = static_cast<int32_t>(k / o.group_size);
  model->Add({linear.name + ".qweight", "I32", {linear.in * o.bits / 32, linear.out}, qweight});
  model->Add({linear.name + ".qzeros", "I32", {groups, linear.out * o.bits / 32}, qzeros});
  model->Add({linear.name + ".scales", "F16", {groups, linear.out}, BytesOfWords(scales)});
  model->Add({linear.name + ".g_idx", "I32", {linear.in}, BytesOfWords(g_idx)});
  if (linear.bias) {
    model->Add(Floats(linear.name + ".bias", {linear.out}, seed));
  } else if (o.zero_biases) {
    model->Add({linear.name + ".bias", "F16", {linear.out}, Bytes(2 * linear.out)});
  }
}

}  // namespace

std::vector<TinyLinear> TinyLinears(bool wide) {
  const uint64_t hidden = wide ? 256 : 64;
  const uint64_t inner = wide ? 512 : 96;
  const uint64_t kv = wide ? 256 : 32;
  return {{"model.layers.0.self_attn.q_proj", hidden, hidden, true}, {"model.layers.0.self_attn.k_proj", hidden, kv, true},
          {"model.layers.0.self_attn.v_proj", hidden, kv, true},     {"model.layers.0.self_attn.o_proj", hidden, hidden, false},
          {"model.layers.0.mlp.gate_proj", hidden, inner, false},    {"model.layers.0.mlp.up_proj", hidden, inner, false},
          {"model.layers.0.mlp.down_proj", inner, hidden, false}};
}

TinyModel MakeTiny(const TinyOptions& options) {
  TinyModel model;
  model.options = options;
  const uint64_t hidden = options.wide ? 256 : 64;
  model.Add(Floats("model.embed_tokens.weight", {32, hidden}, 1));
  model.Add(Floats("model.layers.0.input_layernorm.weight", {hidden}, 2));
  model.Add(Floats("model.layers.0.post_attention_layernorm.weight", {hidden}, 3));
  model.Add(Floats("model.norm.weight", {hidden}, 4));
  if (options.head) model.Add(Floats("lm_head.weight", {32, hidden}, 5));
  uint32_t seed = 100;
  for (const TinyLinear& linear : TinyLinears(options.wide)) AddLinear(linear, ++seed, &model);
  model.config = {{"architectures", R"(["Qwen2ForCausalLM"])"}, {"model_type", "\"qwen2\""}, {"hidden_size", std::to_string(hidden)}, {"intermediate_size", options.wide ? "512" : "96"},
                  {"num_hidden_layers", "1"}, {"num_attention_heads", options.wide ? "1" : "2"}, {"num_key_value_heads", "1"}, {"vocab_size", "32"},
                  {"rms_norm_eps", "1e-06"}, {"rope_theta", "1000000.0"}, {"tie_word_embeddings", "false"}, {"torch_dtype", "\"float16\""}};
  model.quant = {{"quant_method", "\"gptq\""}, {"bits", std::to_string(options.bits)}, {"group_size", std::to_string(options.group_size)},
                 {"desc_act", "false"}, {"sym", options.symmetric ? "true" : "false"}};
  return model;
}

void TinyModel::Rename(const std::string& from, const std::string& to) {
  StoredTensor tensor = tensors.at(from);
  tensors.erase(from);
  tensor.name = to;
  Add(std::move(tensor));
}

std::string JsonText(const std::map<std::string, std::string>& members) {
  std::string text;
  for (const auto& [key, value] : members) text += (text.empty() ? "{\"" : ", \"") + key + "\": " + value;
  return text.empty() ? "{}" : text + "}";
}

void TinyModel::Write(const std::string& folder, const std::vector<std::string>& first_of_shard) const {
  std::vector<std::vector<StoredTensor>> shards(1);
  for (const auto& [name, tensor] : tensors) {
    if (std::ranges::find(first_of_shard, name) != first_of_shard.end()) shards.emplace_back();
    shards.back().push_back(tensor);
  }
  std::string map;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shards.size() == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    WriteWhole(folder + "/" + name, Safetensors(shards[i]));
    for (const StoredTensor& tensor : shards[i]) map += fmt::format("{}\"{}\": \"{}\"", map.empty() ? "" : ", ", tensor.name, name);
  }
  if (shards.size() > 1) WriteWhole(folder + "/model.safetensors.index.json", R"({"metadata": {}, "weight_map": {)" + map + "}}");
  std::map<std::string, std::string> whole = config;
  if (!quant.empty()) whole["quantization_config"] = JsonText(quant);
  WriteWhole(folder + "/config.json", JsonText(whole));
  if (!quantize_config.empty()) WriteWhole(folder + "/quantize_config.json", JsonText(quantize_config));
}

JobOptions TinyJob(const std::string& in, const std::string& out, const std::string& target) {
  JobOptions options;
  options.in = in;
  options.out = out;
  options.targets = {target};
  options.progress = Progress::Show::kNever;
  return options;
}

PlannedJob PlanOf(const std::string& in, const std::string& target) { return Must(PlanJob(TinyJob(in, "", target))); }

const PlannedTensor* FindPlanned(const Plan& plan, const std::string& name) {
  const auto found = std::ranges::find(plan.tensors, name, &PlannedTensor::name);
  return found == plan.tensors.end() ? nullptr : &*found;
}
const DroppedTensor* FindDropped(const Plan& plan, const std::string& name) {
  const auto found = std::ranges::find(plan.dropped, name, &DroppedTensor::name);
  return found == plan.dropped.end() ? nullptr : &*found;
}
bool HasNote(const Plan& plan, const std::string& id) { return std::ranges::find(plan.notes, id, &Note::id) != plan.notes.end(); }

}  // namespace q2c::test
