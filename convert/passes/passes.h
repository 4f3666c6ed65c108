// The passes over the plan, in the order in which they run. Each decides one matter,
// moves no weight bytes, and leaves a reason with everything it does.
#pragma once

#include "convert/plan.h"

namespace q2c {

// Every tensor of the model under its canonical name; buffers and --drop are left out.
Status PassNames(Plan* plan);
// Biases as the target wants them: strip zero ones, fill in absent ones, refuse the rest.
Status PassBiases(Plan* plan);
// A head that only repeats the embedding goes; one that differs stays and unties the model.
Status PassHeads(Plan* plan);
// The layout of every quantised linear, with its group size and exactness.
Status PassLayouts(Plan* plan);
// The channels between gate/up and down: their order (act-order) and their number (padding).
Status PassChannels(Plan* plan);
// The parts of every quantised linear in the layout of the output.
Status PassRepack(Plan* plan);
// Float tensors in the types the target wants.
Status PassFloats(Plan* plan);
// config.json: class, rope, dtype, strict types, local paths.
Status PassConfig(Plan* plan);
// quantization_config and quantize_config.json, from the tensors.
Status PassQuantConfig(Plan* plan);
// Names and files as the target's container has them.
Status PassContainer(Plan* plan);
// Shards, offsets, index.
Status PassFiles(Plan* plan);
Status PassUntouched(Plan* plan);  // finds shards that stay what they are

// The truth about all quantised linears of the output together.
struct Survey {
  uint32_t bits = 0;
  int64_t group_size = 0;   // -1: one group
  bool symmetric = true;
  bool act_order = false;
  bool mixed = false;       // bits or group size differ between linears
};
Survey SurveyOf(const Plan& plan);
const PlannedLinear& FirstQuantised(const Plan& plan);  // there is one
// What a config says of one linear: the group size of the others where it fits as well, -1 for one group.
int64_t SaidGroupSize(const PlannedLinear& linear, int64_t usual);

// The group size of a linear in the layout, of `asked` (--group-size) where there is one; nothing if
// there is none. `refusal` says why where it is because of what was asked.
std::optional<uint64_t> GroupSizeIn(const LayoutRule& rule, const QuantTraits& traits, std::optional<uint64_t> asked, std::string* refusal);
// "targets that hold it: awq, gguf": whose loaders could take every linear without rounding, in groups as asked for.
std::string TargetsThatHold(const Model& model, std::optional<uint64_t> group_size);
// Errors: kRefused "quant-mixed" where linears differ in what the target's loaders take as one for all.
Status CheckPerModule(const Plan& plan);
// The linears that differ from the others, in the words of GPTQModel; empty if none does.
Json DynamicOf(const Plan& plan, const Survey& usual);

// quantization_config for layouts that are not GPTQ.
Status WriteCompressedTensorsConfig(Plan* plan);
Status WriteAwqConfig(Plan* plan);
Status WriteMarlinConfig(Plan* plan);
Status WriteMlxConfig(Plan* plan);
Status EraseQuantConfig(Plan* plan);

// Changes to a config, each with its reason and under the repair that it is part of. An edit of
// a repair that the user does not want is not made.
class ConfigEditor {
 public:
  ConfigEditor(Plan* plan, Json* json, std::string file, std::string prefix, std::string_view repair)
      : plan_(plan), json_(json), file_(std::move(file)), prefix_(std::move(prefix)), repair_(repair) {}

  ConfigEditor& As(std::string_view repair) {
    repair_ = repair;
    return *this;
  }
  const Json* Find(std::string_view key) const { return json_->Find(key); }
  void Set(const std::string& key, Json value, std::string_view reason);  // nothing if it is so already
  void Erase(const std::string& key, std::string_view reason);           // nothing if it is absent
  // The same for a local path or calibration data: the value is not repeated in the manifest.
  void ErasePrivate(const std::string& key, std::string_view reason);

 private:
  bool Makes(const std::string& key) { return plan_->Makes(repair_, file_ + ": " + prefix_ + key); }

  Plan* plan_;
  Json* json_;
  std::string file_;
  std::string prefix_;
  std::string_view repair_;
};

// rope_theta, rope_scaling and rope_parameters, in agreement.
Status EditRope(const Plan& plan, ConfigEditor* editor);

// Settings of generation: out of config.json, and generation_config.json made consistent.
Status MoveGeneration(Plan* plan, ConfigEditor* config);

// Does the text look like a path on somebody's machine?
bool LooksLikeLocalPath(std::string_view text);
// The same for a key that names a model: a bare word is a folder, org/name is a Hub name.
bool LooksLikeLocalModel(std::string_view text);

}  // namespace q2c
