// The tokenizer files and chat templates, as data: nothing is rendered.
#include <algorithm>
#include <array>

#include "formats/base/text.h"
#include "verify/checks/checks.h"

namespace q2c {
namespace {

constexpr uint64_t kMaxText = 32'000'000;

void CheckIds(const CheckInput& input, const Json& tokenizer, Findings* findings) {
  const std::optional<Json>& config = input.checkpoint->config();
  const Json* vocabulary = config.has_value() ? input.TextConfig().Find("vocab_size") : nullptr;
  if (vocabulary == nullptr || !vocabulary->AsU64().has_value()) return;
  const uint64_t rows = *vocabulary->AsU64();
  uint64_t count = 0;
  uint64_t largest = 0;
  const auto see = [&](const Json* id) {
    if (id == nullptr || !id->AsU64().has_value()) return;
    count += *id->AsU64() >= rows ? 1 : 0;
    largest = std::max(largest, *id->AsU64());
  };
  if (const Json* ids = FindPath(tokenizer, {"model", "vocab"})) {
    for (const auto& [token, id] : ids->members()) see(&id);
  }
  if (const Json* added = tokenizer.Find("added_tokens")) {
    for (const Json& token : added->items()) see(token.Find("id"));
  }
  if (count > 0) findings->Add("tokenizer-ids", fmt::format("tokenizer.json has {} ids up to {}, the embedding has {} rows", count, largest, rows), {}, count);
}

// Forms that tokenizers and transformers before a release cannot read.
void CheckForms(const Json& tokenizer, const std::optional<Json>& config, Findings* findings) {
  const Json* merges = FindPath(tokenizer, {"model", "merges"});
  if (merges != nullptr && !merges->items().empty() && merges->items().front().is_array()) findings->Add("tokenizer-form", "tokenizer.json: merges are pairs, which tokenizers before 0.20 cannot read");
  if (!config.has_value()) return;
  if (const Json* extra = config->Find("extra_special_tokens"); extra != nullptr && extra->is_array()) findings->Add("tokenizer-form", "tokenizer_config.json: extra_special_tokens is a list, which transformers before 5 cannot read");
  if (const Json* name = config->Find("tokenizer_class"); name != nullptr && name->text() == "TokenizersBackend") findings->Add("tokenizer-form", "tokenizer_config.json: tokenizer_class is 'TokenizersBackend', which transformers before 5 does not know");
}

// Bytes that a checkout or an editor of another system has put in.
void CheckBytes(const CheckInput& input, Findings* findings) {
  for (const char* name : {"merges.txt", "vocab.json", "tokenizer.json", "tokenizer_config.json"}) {
    const std::optional<std::string> text = input.ReadText(name, kMaxText);
    if (!text.has_value()) continue;
    if (text->starts_with("\xEF\xBB\xBF")) findings->Add("tokenizer-text", fmt::format("file '{}' begins with a byte order mark", name));
    const size_t returns = static_cast<size_t>(std::ranges::count(*text, '\r'));
    if (returns > 0) findings->Add("tokenizer-text", fmt::format("file '{}' holds {} carriage returns", name, returns));
  }
}

struct Template {
  std::string where;
  std::string text;
};

std::vector<Template> Templates(const CheckInput& input, const std::optional<Json>& config) {
  std::vector<Template> found;
  if (config.has_value()) {
    if (const Json* text = config->Find("chat_template"); text != nullptr && text->is_string()) found.push_back({"tokenizer_config.json", text->text()});
    if (const Json* list = config->Find("chat_template"); list != nullptr && list->is_array()) {
      for (const Json& item : list->items()) {
        if (const Json* text = item.Find("template"); text != nullptr && text->is_string()) found.push_back({"tokenizer_config.json", text->text()});
      }
    }
  }
  if (std::optional<std::string> text = input.ReadText("chat_template.jinja", kMaxText)) found.push_back({"chat_template.jinja", *std::move(text)});
  return found;
}

// What a template needs to write a prompt has no underscores before its names and calls no
// function that leads to the interpreter.
void CheckTemplates(const std::vector<Template>& templates, Findings* findings) {
  constexpr std::array<std::string_view, 14> kReaching = {"__class__", "__globals__", "__init__", "__mro__", "__subclasses__", "__builtins__", "__import__", "__getattribute__", "__base__", "__dict__", "|attr(", "| attr(", "lipsum", "cycler."};
  for (const Template& found : templates) {
    std::vector<std::string> reached;
    for (const std::string_view word : kReaching) {
      if (found.text.find(word) != std::string::npos) reached.emplace_back(word);
    }
    for (const std::string_view word : {"{% include", "{%- include", "{% import", "{%- import", "{% from", "{%- from", "{% extends", "{%- extends"}) {
      if (found.text.find(word) != std::string::npos) reached.emplace_back(word);
    }
    if (!reached.empty()) findings->Add("template-code", fmt::format("the chat template in '{}' holds {}; it was not rendered", found.where, QuoteSome(reached, 6)));
  }
  const auto jinja = std::ranges::find(templates, "chat_template.jinja", &Template::where);
  const bool inside = std::ranges::any_of(templates, [](const Template& found) { return found.where == "tokenizer_config.json"; });
  const bool same = jinja != templates.end() && std::ranges::any_of(templates, [&](const Template& found) { return found.where == "tokenizer_config.json" && found.text == jinja->text; });
  if (jinja != templates.end() && inside && !same) findings->Add("template-differs", "chat_template.jinja and the chat_template of tokenizer_config.json are not the same; which one is used depends on the version of transformers");
  if (jinja != templates.end() && !inside) findings->Add("template-absent", "the chat template is in chat_template.jinja only, which transformers before 4.51 does not read");
}

}  // namespace

void CheckTokenizer(const CheckInput& input, Findings* findings) {
  if (input.single_file || input.Gguf()) return;
  const bool any = input.HasEntry("tokenizer.json") || input.HasEntry("vocab.json") || input.HasEntry("tokenizer.model") || input.HasEntry("qwen.tiktoken");
  if (!any && !input.checkpoint->files().empty()) findings->Add("tokenizer-missing", "there is no tokenizer.json, vocab.json or qwen.tiktoken");
  CheckBytes(input, findings);
  const std::optional<Json> config = input.ReadJson("tokenizer_config.json", findings);
  const std::vector<Template> templates = Templates(input, config);
  CheckTemplates(templates, findings);
  if (any && templates.empty()) findings->Add("template-absent", "there is no chat template");
  const std::optional<Json> tokenizer = input.ReadJson("tokenizer.json", findings);
  if (!tokenizer.has_value()) return;
  CheckIds(input, *tokenizer, findings);
  CheckForms(*tokenizer, config, findings);
}

}  // namespace q2c
