#include <algorithm>
#include <array>

#include "formats/base/hash.h"
#include "formats/base/text.h"
#include "formats/gguf_tokenizer.h"
#include "verify/model_compare.h"

namespace q2c {
namespace {

constexpr uint64_t kMaxSideFile = 200'000'000;
constexpr std::string_view kTemplateKey = "tokenizer.chat_template";

Result<std::optional<std::string>> ReadMember(const Checkpoint& checkpoint, std::string_view name) {
  for (const auto& [inner, content] : checkpoint.inner_files()) {
    if (inner == name) return std::optional<std::string>(content);
  }
  const bool there = std::ranges::any_of(checkpoint.side_files(), [&](const SideFile& file) { return file.name == name; });
  if (!there) return std::optional<std::string>();
  QC_ASSIGN(const InputFile file, checkpoint.location().OpenMember(std::string(name)));
  QC_ASSIGN(std::string text, file.ReadAll(kMaxSideFile));
  return std::optional<std::string>(std::move(text));
}

std::string Plain(const GgufValue& value) {
  if (!value.is_array() && value.is_string()) return value.texts().front();
  if (!value.is_array() && value.AsI64().has_value()) return fmt::format("{}", *value.AsI64());
  std::string text = value.raw();
  for (const std::string& each : value.texts()) text += fmt::format("{} {}", each.size(), each);
  return text;
}

using Facts = std::vector<std::pair<std::string, std::string>>;  // key, what it says

std::string Brief(const std::string& text) {
  constexpr size_t kPlain = 40;
  return text.size() <= kPlain && IsUtf8(text) ? text : fmt::format("{} bytes, SHA-256 {:.16}", text.size(), Sha256::Of(AsBytes(text)));
}

// What tokenises the same gets the same facts, whichever files say it: those that llama.cpp asks
// for. A tokenizer that cannot be put so is compared file by file.
Result<Facts> FactsOf(const Model& model) {
  const Checkpoint& checkpoint = *model.checkpoint;
  const GgufModelFiles files{model.config, [&](std::string_view name) { return ReadMember(checkpoint, name); }};
  Facts facts;
  GgufValues values;
  const auto embedding = model.skeleton.tensors.find("model.embed_tokens.weight");  // not there if the architecture is not known
  const uint64_t rows = embedding == model.skeleton.tensors.end() ? 0 : embedding->second.shape[0];
  if (rows > 0 && AddGgufTokenizer(files, rows, &values).ok()) {
    for (const auto& [key, value] : values) {
      facts.emplace_back(key, Plain(value));
    }
  } else {
    constexpr std::array kFiles = {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"};
    for (const char* name : kFiles) {
      QC_ASSIGN(const std::optional<std::string> text, ReadMember(checkpoint, name));
      if (text.has_value()) facts.emplace_back(name, *text);
    }
    QC_ASSIGN(const std::optional<std::string> chat, ReadMember(checkpoint, "chat_template.jinja"));
    if (chat.has_value()) facts.emplace_back(kTemplateKey, *chat);
  }
  return facts;
}

// The parts of tokenizer.json that GGUF has no words for, where both sides have that file.
Status CompareSteps(const Model& a, const Model& b, std::vector<Difference>* differences) {
  QC_ASSIGN(const std::optional<std::string> left, ReadMember(*a.checkpoint, "tokenizer.json"));
  QC_ASSIGN(const std::optional<std::string> right, ReadMember(*b.checkpoint, "tokenizer.json"));
  if (!left.has_value() || !right.has_value() || !a.checkpoint->inner_files().empty() || !b.checkpoint->inner_files().empty()) return {};
  const Result<Json> x = ParseJson(*left, JsonNumbers::kAllowNan);
  const Result<Json> y = ParseJson(*right, JsonNumbers::kAllowNan);
  if (!x.ok() || !y.ok()) {
    if (*left != *right) differences->push_back({"tokenizer.json", Brief(*left), Brief(*right)});
    return {};
  }
  for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    const Json* p = GetSet(x.value(), key);
    const Json* q = GetSet(y.value(), key);
    const bool same = p == nullptr || q == nullptr ? p == q : *p == *q;
    if (!same) differences->push_back({fmt::format("tokenizer.json {}", key), p == nullptr ? "" : Brief(p->Dump(-1)), q == nullptr ? "" : Brief(q->Dump(-1))});
  }
  return {};
}

void CompareFacts(const Facts& left, const Facts& right, bool swapped, TokenizerDifferences* out) {
  for (const auto& [key, value] : left) {
    const auto found = std::ranges::find(right, key, &Facts::value_type::first);
    if (found != right.end() && (swapped || found->second == value)) continue;
    std::string mine = Brief(value);
    std::string theirs = found == right.end() ? "" : Brief(found->second);
    if (swapped) std::swap(mine, theirs);
    (key.starts_with(kTemplateKey) ? out->chat_template : out->tokenizer).push_back({key, mine, theirs});
  }
}

}  // namespace

Result<TokenizerDifferences> CompareTokenizers(const Model& a, const Model& b) {
  TokenizerDifferences differences;
  QC_ASSIGN(const Facts left, FactsOf(a));
  QC_ASSIGN(const Facts right, FactsOf(b));
  CompareFacts(left, right, false, &differences);
  CompareFacts(right, left, true, &differences);
  QC_TRY(CompareSteps(a, b, &differences.tokenizer));
  return differences;
}

}  // namespace q2c
