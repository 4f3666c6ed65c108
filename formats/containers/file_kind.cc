#include "formats/containers/file_kind.h"

#include <algorithm>
#include <array>

#include "formats/base/text.h"

namespace q2c {
namespace {

// A Git LFS pointer (git-lfs.com/spec) says which file should be in its place.
std::optional<std::string> LfsPointer(std::string_view text) {
  if (!text.starts_with("version https://git-lfs")) return std::nullopt;
  const auto after = [&](std::string_view key) {
    const size_t at = text.find(key);
    if (at == std::string_view::npos) return std::string_view("?");
    const size_t begin = at + key.size();
    return text.substr(begin, std::min(text.find('\n', begin), text.size()) - begin);
  };
  return fmt::format("a Git LFS pointer in place of the file with SHA-256 {}, {} bytes: it was not downloaded; run 'git lfs pull'", Escape(after("\noid sha256:"), 64),
                     Escape(after("\nsize "), 20));
}

}  // namespace

std::optional<std::string> KnownKind(std::string_view head) {
  struct Kind {
    std::string_view start;
    std::string_view name;
  };
  static constexpr std::array kKinds = {
      Kind{"\x1f\x8b", "gzip data; unpack it first"},
      Kind{"\x28\xb5\x2f\xfd", "zstd data; unpack it first"},
      Kind{"GGUF", "a GGUF file; rename it to *.gguf"},
      Kind{"<!DOCTYPE", "a web page: the download was answered with an error"},
      Kind{"<!doctype", "a web page: the download was answered with an error"},
      Kind{"<html", "a web page: the download was answered with an error"},
      Kind{"<?xml", "an XML document: the download was answered with an error"},
      Kind{"<Error", "an XML document: the download was answered with an error"},
  };
  if (std::optional<std::string> pointer = LfsPointer(head)) return pointer;
  for (const Kind& kind : kKinds) {
    if (head.starts_with(kind.start)) return std::string(kind.name);
  }
  return std::nullopt;
}

Status CheckDownloaded(const InputFile& file) {
  if (file.bytes() > kKindBytes) return {};
  QC_ASSIGN(const std::string text, file.ReadAll(kKindBytes));
  const std::optional<std::string> pointer = LfsPointer(text);
  return pointer.has_value() ? Malformed("file-type", "file '{}': this is {}", Escape(file.path()), *pointer) : Status();
}

}  // namespace q2c
