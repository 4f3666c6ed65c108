#include "verify/texts.h"

#include <algorithm>
#include <array>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr uint64_t kMaxTokenizer = 100'000'000;

const std::array<KnownText, 2>& KnownTexts() {
  static const std::array<KnownText, 2> texts = {{
      // "A model is stored as a few large files of numbers. Each file begins with a header that lists
      // the tensors, their types and their shapes, …"
      {"Qwen",
       "599bab54075088774b1733fde865d5bd747cbcc7a547c5bc12610e874e26f5e3",
       {32,  1614, 374,  9768, 438, 264, 2421, 3460, 3542, 315,  5109, 13, 8886, 1034, 12033, 448, 264, 4247, 429,  11469, 279, 77087,
        11,  862,  4494, 323,  862, 20816, 11, 323,  279,  5820, 315,  279, 77087, 1795, 825,  1283, 279, 1008, 13,  3197,  264, 2025,
        20907, 279, 1614, 11,  432, 15804, 279, 4247, 1156, 323, 1221, 10993, 279, 5820, 1119, 4938, 13, 1416, 264, 1034}},
      // "    def read(self, size=-1):\n        """Read up to size bytes from the stream …", as the
      // models under fixtures/ have learnt to continue
      {"fixtures",
       "a6ee55e77e1c59089be2808603a3ad5469ac472daa1ad80697a06ec76a0a286c",
       {261, 346, 292, 344, 10,  281, 14,  306, 75,  473, 31,  15, 19,  309, 267, 358, 491, 344, 223, 384, 350, 306,
        75,  473, 471, 323, 85,  285, 459, 298, 364, 265, 67,  79, 366, 326, 298, 79,  16,  334, 267, 302, 293, 16,
        69,  338, 263, 70,  28,  287, 428, 223, 56,  288, 339, 382, 481, 43,  17,  49,  295, 82,  274, 439}},
  }};
  return texts;
}

// What a file beside the weights holds, or what the weights' own file says it would hold.
Result<std::string> ReadBeside(const Checkpoint& checkpoint, std::string_view name) {
  for (const auto& [inner, content] : checkpoint.inner_files()) {
    if (inner == name) return content;
  }
  const bool there = std::ranges::any_of(checkpoint.side_files(), [&](const SideFile& file) { return file.name == name; });
  if (!there) return std::string();
  QC_ASSIGN(const InputFile file, checkpoint.location().OpenMember(std::string(name)));
  return file.ReadAll(kMaxTokenizer);
}

// "left right" of each merge, in either of the two forms of tokenizer.json.
std::string MergesOf(const Json& tokenizer) {
  const Json* model = tokenizer.Find("model");
  const Json* merges = model == nullptr ? nullptr : model->Find("merges");
  std::string lines;
  for (const Json& merge : merges == nullptr ? std::vector<Json>() : merges->items()) {
    if (merge.is_string()) lines += merge.text();
    else if (merge.items().size() == 2) lines += merge.items()[0].text() + " " + merge.items()[1].text();
    lines += '\n';
  }
  return lines;
}

}  // namespace

Result<const KnownText*> FindText(const Checkpoint& checkpoint) {
  std::string merges;
  QC_ASSIGN(const std::string tokenizer, ReadBeside(checkpoint, "tokenizer.json"));
  if (!tokenizer.empty()) {
    const Result<Json> json = ParseJson(tokenizer);
    if (json.ok()) merges = MergesOf(json.value());
  }
  if (merges.empty()) {
    QC_ASSIGN(merges, ReadBeside(checkpoint, "merges.txt"));
    if (merges.starts_with("#version")) merges.erase(0, merges.find('\n') + 1);
  }
  if (merges.empty()) return nullptr;
  const std::string digest = Sha256::Of(AsBytes(merges));
  const auto found = std::ranges::find(KnownTexts(), digest, &KnownText::merges_sha256);
  return found == KnownTexts().end() ? nullptr : &*found;
}

}  // namespace q2c
