// The data files that are compiled into the library (architectures and targets).
#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace q2c {

struct EmbeddedFile {
  std::string_view folder;  // "architectures"
  std::string_view name;    // "qwen2"
  std::string_view text;
};
std::span<const EmbeddedFile> EmbeddedFiles();

inline std::vector<std::string> EmbeddedNames(std::string_view folder) {
  std::vector<std::string> names;
  for (const EmbeddedFile& file : EmbeddedFiles()) {
    if (file.folder == folder) names.emplace_back(file.name);
  }
  std::ranges::sort(names);  // the files' order has "a-b.json" before "a.json"
  return names;
}
inline std::optional<std::string_view> EmbeddedText(std::string_view folder, std::string_view name) {
  for (const EmbeddedFile& file : EmbeddedFiles()) {
    if (file.folder == folder && file.name == name) return file.text;
  }
  return std::nullopt;
}

}  // namespace q2c
