// A whole Qwen2 checkpoint of one layer, small enough to spell out: hidden 64, intermediate
// 96, 2 heads, 1 key-value head, vocabulary 32. Packed with bits.h, written with stored.h.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "convert/job.h"
#include "tests/unit/support/stored.h"

namespace q2c::test {

struct TinyOptions {
  uint32_t bits = 4;
  uint64_t group_size = 32;
  uint32_t minus = 1;         // what the zero fields are stored less: 1 is v1, 0 is v2
  bool symmetric = true;
  bool zero_biases = true;    // on o, gate, up, down, as AutoGPTQ 0.2 to 0.7 writes them
  bool head = true;           // lm_head.weight is in the file
  bool wide = false;          // hidden 256, intermediate 512, one head: outputs in multiples of 256
};

struct TinyModel {
  TinyOptions options;
  std::map<std::string, StoredTensor> tensors;
  std::map<std::string, std::string> config;  // key -> JSON text
  std::map<std::string, std::string> quant;   // quantization_config; empty: none
  std::map<std::string, std::string> quantize_config;  // the separate file; empty: none

  StoredTensor& At(const std::string& name) { return tensors.at(name); }
  void Add(StoredTensor tensor) { tensors[tensor.name] = std::move(tensor); }
  void Rename(const std::string& from, const std::string& to);

  // One file, or several with an index: `first_of_shard` names the tensor each later shard begins with.
  void Write(const std::string& folder, const std::vector<std::string>& first_of_shard = {}) const;
};

struct TinyLinear {
  std::string name;
  uint64_t in = 0;
  uint64_t out = 0;
  bool bias = false;
};
std::vector<TinyLinear> TinyLinears(bool wide = false);

TinyModel MakeTiny(const TinyOptions& options = {});
std::string JsonText(const std::map<std::string, std::string>& members);

JobOptions TinyJob(const std::string& in, const std::string& out, const std::string& target = "transformers-4.x");
// Reads and plans, or throws.
PlannedJob PlanOf(const std::string& in, const std::string& target = "transformers-4.x");

// A planned tensor by name, or null.
const PlannedTensor* FindPlanned(const Plan& plan, const std::string& name);
const DroppedTensor* FindDropped(const Plan& plan, const std::string& name);
bool HasNote(const Plan& plan, const std::string& id);

}  // namespace q2c::test
