// What could run: code beside the weights, programs, pickles. Templates are in tokenizer.cc,
// paths in the readers.
#include <algorithm>
#include <array>

#include "formats/base/text.h"
#include "verify/checks/checks.h"

namespace q2c {
namespace {

// What the first bytes say a file is, if it is a program.
std::optional<std::string_view> ProgramKind(std::string_view head) {
  struct Magic {
    std::string_view bytes;
    std::string_view kind;
  };
  constexpr std::array<Magic, 7> kMagics = {Magic{"\x7F" "ELF", "a program or library (ELF)"}, Magic{"MZ", "a program or library (PE)"}, Magic{"#!", "a script"}, Magic{"\xCF\xFA\xED\xFE", "a program (Mach-O)"},
                                            Magic{"\xCA\xFE\xBA\xBE", "a program (Mach-O or Java class)"}, Magic{"\xFE\xED\xFA\xCF", "a program (Mach-O)"}, Magic{"!<arch>", "a static library"}};
  const auto found = std::ranges::find_if(kMagics, [&](const Magic& magic) { return head.starts_with(magic.bytes); });
  if (found == kMagics.end()) return std::nullopt;
  return found->kind;
}

}  // namespace

void CheckSecurity(const CheckInput& input, Findings* findings) {
  if (input.single_file) return;
  std::vector<std::string> code;
  for (const DirEntry& entry : input.entries) {
    if (entry.kind == FileKind::kFolder) continue;
    if (entry.kind == FileKind::kOther) {
      findings->Add("file-kind", fmt::format("'{}' is a device, pipe or socket, expected a regular file", Escape(entry.name)));
      continue;
    }
    if (entry.name.ends_with(".py")) code.push_back(entry.name);
    if (entry.name.ends_with(".pkl") || entry.name.ends_with(".pickle") || entry.name.ends_with(".joblib") || entry.name.ends_with(".bin") || entry.name.ends_with(".pt") || entry.name.ends_with(".pth")) {
      findings->Add("pickle", fmt::format("file '{}' may hold a pickle; torch.load and pickle.load run what is in it", Escape(entry.name)));
    }
    const bool weights = entry.name.ends_with(".safetensors") || entry.name.ends_with(".gguf");
    if (weights) continue;
    const Result<InputFile> file = input.checkpoint->location().OpenMember(entry.name);
    if (!file.ok() || file.value().bytes() < 8) continue;
    std::array<std::byte, 8> head{};
    if (!file.value().ReadAt(0, head).ok()) continue;
    const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());  // NOLINT: bytes as text
    if (const auto kind = ProgramKind(text); kind.has_value() && !entry.name.ends_with(".py")) findings->Add("executable", fmt::format("file '{}' is {}", Escape(entry.name), *kind));
  }
  if (!code.empty()) findings->Add("remote-code", fmt::format("Python code: {}; it was not run", QuoteSome(code, 8)));
}

}  // namespace q2c
