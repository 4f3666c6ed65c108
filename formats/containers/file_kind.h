// What a file that was taken for weights really is.
#pragma once

#include <array>
#include <optional>
#include <string_view>

namespace q2c {

// Where it is a well-known kind of something that holds no tensors, or has to be unpacked first. 64 bytes suffice.
inline std::optional<std::string_view> KnownKind(std::string_view head) {
  struct Kind {
    std::string_view start;
    std::string_view name;
  };
  static constexpr std::array kKinds = {
      Kind{"version https://git-lfs", "a Git LFS pointer: the weights themselves were not downloaded; run 'git lfs pull'"},
      Kind{"\x1f\x8b", "gzip data; unpack it first"},
      Kind{"\x28\xb5\x2f\xfd", "zstd data; unpack it first"},
      Kind{"GGUF", "a GGUF file; rename it to *.gguf"},
      Kind{"<!DOCTYPE", "a web page: the download was answered with an error"},
      Kind{"<!doctype", "a web page: the download was answered with an error"},
      Kind{"<html", "a web page: the download was answered with an error"},
      Kind{"<?xml", "an XML document: the download was answered with an error"},
      Kind{"<Error", "an XML document: the download was answered with an error"},
  };
  for (const Kind& kind : kKinds) {
    if (head.starts_with(kind.start)) return kind.name;
  }
  return std::nullopt;
}

}  // namespace q2c
