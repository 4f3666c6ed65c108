// The checks: each looks at one side of what was read and adds what is wrong to the findings.
// They read headers, configs and small tensors; verify/checks/data.h reads all data.
#pragma once

#include <functional>

#include "formats/model.h"
#include "verify/findings.h"

namespace q2c {

struct CheckInput {
  const Checkpoint* checkpoint = nullptr;
  const Model* model = nullptr;  // null where no architecture was made out
  bool single_file = false;      // a weight file by itself: there is no folder to judge
  std::vector<DirEntry> entries;  // of the folder

  bool HasEntry(std::string_view name) const;
  bool Gguf() const;
  // config.json, or the text model's part of it where a vision model keeps one. There must be one.
  const Json& TextConfig() const;
  // A JSON file of the folder; nothing if it is not there or broken, which is a finding then.
  std::optional<Json> ReadJson(const std::string& name, Findings* findings) const;
  // The text of a small file; nothing if it is not there or larger than the limit.
  std::optional<std::string> ReadText(const std::string& name, uint64_t limit) const;
};

void CheckContainer(const CheckInput& input, Findings* findings);     // files, headers, index
void CheckConfig(const CheckInput& input, Findings* findings);        // config.json, generation_config.json
void CheckQuantConfig(const CheckInput& input, Findings* findings);   // what the configs say about the quantisation
void CheckTokenizer(const CheckInput& input, Findings* findings);
void CheckSecurity(const CheckInput& input, Findings* findings);      // code, programs, templates
Status CheckArchitecture(const CheckInput& input, Findings* findings);  // names, biases, heads
Status CheckQuantisation(const CheckInput& input, Findings* findings);  // zero points, groups, labels against the tensors

// A value inside nested objects, or null.
const Json* FindPath(const Json& json, std::initializer_list<std::string_view> path);
bool LooksLikeMakersPath(std::string_view text);

}  // namespace q2c
