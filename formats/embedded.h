// The data files that are compiled into the library (architectures and targets).
#pragma once

#include <span>
#include <string_view>

namespace q2c {

struct EmbeddedFile {
  std::string_view folder;  // "architectures"
  std::string_view name;    // "qwen2"
  std::string_view text;
};
std::span<const EmbeddedFile> EmbeddedFiles();

}  // namespace q2c
