#include "formats/architecture.h"

#include <algorithm>
#include <array>

#include "formats/base/text.h"
#include "formats/embedded.h"
#include "formats/layouts/layout.h"

namespace q2c {
namespace {

// Larger than any model, small enough that products of three stay below 2^64.
constexpr uint64_t kMaxSize = 1U << 20U;
constexpr uint64_t kMaxLayers = 1000;
constexpr uint64_t kMaxLinears = 1'000'000;

// "vision_config.depth": of an object inside.
const Json* FindPath(const Json& config, std::string_view path) {
  const size_t dot = path.find('.');
  if (dot == std::string_view::npos) return config.Find(path);
  const Json* inner = config.Find(path.substr(0, dot));
  return inner == nullptr ? nullptr : FindPath(*inner, path.substr(dot + 1));
}

// The named sizes of one model, from its config.
class Sizes {
 public:
  static Result<Sizes> Read(const Json& definition, const Json& config) {
    Sizes sizes;
    for (const auto& [symbol, rule] : definition.Find("sizes")->members()) {
      const std::string& key = rule.Find("key")->text();
      const Json* value = FindPath(config, key);
      // Labels are counted by their names, which loaders believe before the number.
      const Json* names = rule.Find("names") == nullptr ? nullptr : config.Find(rule.Find("names")->text());
      if (names != nullptr && !names->members().empty()) {
        sizes.values_[symbol] = names->members().size();
        continue;
      }
      if (value != nullptr && !value->is_null()) {
        const std::optional<uint64_t> number = value->AsU64();
        const uint64_t limit = symbol == "L" ? kMaxLayers : kMaxSize;
        if (!number.has_value() || *number == 0 || *number > limit) {
          return Malformed("config-size", "config.json: {} is {}, expected a whole number from 1 to {}", key, Escape(value->Dump(-1), 40), limit);
        }
        sizes.values_[symbol] = *number;
        continue;
      }
      const Json* fallback = rule.Find("default");
      if (fallback == nullptr) return Malformed("config-size", "config.json: {} is missing", key);
      QC_ASSIGN(sizes.values_[symbol], sizes.Eval(fallback->text()));
    }
    const auto at = [&](const char* symbol) { return sizes.values_.at(symbol); };
    if (config.Find("head_dim") == nullptr && at("H") % at("A") != 0) {
      return Malformed("config-size", "config.json: hidden_size {} is not a multiple of num_attention_heads {}", at("H"), at("A"));
    }
    if (at("K") > at("A") || at("A") % at("K") != 0) {
      return Malformed("config-size", "config.json: num_attention_heads {} is not a multiple of num_key_value_heads {}", at("A"), at("K"));
    }
    return sizes;
  }

  // A number, a symbol, or two of them joined by * or /.
  Result<uint64_t> Eval(const std::string& text) const {
    for (const char op : {'*', '/'}) {
      const size_t at = text.find(op);
      if (at == std::string::npos) continue;
      QC_ASSIGN(const uint64_t left, Eval(text.substr(0, at)));
      QC_ASSIGN(const uint64_t right, Eval(text.substr(at + 1)));
      if (op == '/' && right == 0) return Internal("division by zero in '{}'", text);
      return op == '*' ? left * right : left / right;
    }
    if (const auto found = values_.find(text); found != values_.end()) return found->second;
    if (const std::optional<uint64_t> number = Json::Number(text).AsU64()) return *number;
    return Internal("unknown size '{}' in an architecture", text);
  }

 private:
  std::map<std::string, uint64_t> values_;
};

// Which layers of a mixture-of-experts model have experts (transformers: decoder_sparse_step, mlp_only_layers).
bool IsSparse(const Json& config, uint64_t layer) {
  if (const Json* dense = config.Find("mlp_only_layers"); dense != nullptr) {
    for (const Json& item : dense->items()) {
      if (item.AsU64() == layer) return false;
    }
  }
  const Json* step = config.Find("decoder_sparse_step");
  const uint64_t every = step == nullptr ? 1 : step->AsU64().value_or(1);
  return every != 0 && (layer + 1) % every == 0;
}

bool DeclaresBias(const Json& rule, const Json& config) {
  if (rule.is_string()) return rule.text() == "required";
  const Json* value = config.Find(rule.Find("key")->text());
  const bool fallback = rule.Find("default")->AsBool().value_or(false);
  return value == nullptr ? fallback : value->AsBool().value_or(fallback);
}

std::string Replace(std::string text, std::string_view what, uint64_t number) {
  if (const size_t at = text.find(what); at != std::string::npos) text.replace(at, what.size(), std::to_string(number));
  return text;
}

Json Extend(const Json& base, const Json& derived) {
  Json merged = base;
  for (const auto& [key, value] : derived.members()) {
    if (Json* old = merged.Find(key); old != nullptr && old->is_object() && value.is_object()) {
      *old = Extend(*old, value);
    } else {
      merged.Set(key, value);
    }
  }
  return merged;
}

Result<Json> LoadDefinition(std::string_view model_type) {
  const std::optional<std::string_view> text = EmbeddedText("architectures", model_type);
  if (!text.has_value()) return Refused("architecture", "architecture '{}' is not known; known are {}; with --arch=generic it is taken as it is", Escape(model_type), Join(KnownArchitectures(), ", "));
  QC_ASSIGN(const Json json, ParseJson(*text));
  const Json* base = json.Find("extends");
  if (base == nullptr) return json;
  QC_ASSIGN(const Json base_json, LoadDefinition(base->text()));
  return Extend(base_json, json);
}

// Other names for the same tensors, with the rows that each place takes.
Status AddNames(const Json& names, const Sizes& sizes, Skeleton* skeleton) {
  for (const auto& [pattern, places] : names.members()) {
    std::vector<Place>& list = skeleton->names[pattern];
    for (const Json& item : places.items()) {
      Place place{item.Find("name")->text(), {}};
      if (const Json* rows = item.Find("rows")) {
        QC_ASSIGN(place.rows.first, sizes.Eval(rows->items()[0].text()));
        QC_ASSIGN(const uint64_t end, sizes.Eval(rows->items()[1].text()));
        place.rows.count = end - place.rows.first;
        for (Place& other : list) other.rows.of = end;  // the last place ends where the linear does
        place.rows.of = end;
      }
      list.push_back(std::move(place));
    }
  }
  return {};
}

// "blk.3.ffn_up_exps.7" -> "blk.{layer}.ffn_up_exps.{expert}" and the two numbers.
struct Numbered {
  std::string pattern;
  std::array<std::string, 2> numbers;
};
Numbered NumbersOut(std::string_view name) {
  constexpr std::array<std::string_view, 2> kPlaces = {"{layer}", "{expert}"};
  Numbered out;
  size_t found = 0;
  for (size_t at = 0; at <= name.size();) {
    const size_t dot = std::min(name.find('.', at), name.size());
    const std::string_view piece = name.substr(at, dot - at);
    const bool number = !piece.empty() && found < kPlaces.size() && std::ranges::all_of(piece, [](char c) { return c >= '0' && c <= '9'; });
    if (at > 0) out.pattern += '.';
    if (number) out.numbers[found] = piece;
    out.pattern += number ? kPlaces[found++] : piece;
    at = dot + 1;
  }
  return out;
}
std::string NumbersIn(std::string pattern, const Numbered& from) {
  constexpr std::array<std::string_view, 2> kPlaces = {"{layer}", "{expert}"};
  for (size_t i = 0; i < kPlaces.size(); ++i) {
    if (const size_t at = pattern.find(kPlaces[i]); at != std::string::npos) pattern.replace(at, kPlaces[i].size(), from.numbers[i]);
  }
  return pattern;
}

// Is it a canonical name?
bool IsKnown(const Skeleton& skeleton, std::string_view name) {
  const size_t dot = std::min(name.rfind('.'), name.size());
  const std::string_view linear = name.substr(0, dot);
  const std::string_view part = name.substr(std::min(dot + 1, name.size()));
  if (IsLinearPart(part) && skeleton.linears.contains(linear)) return true;
  if (skeleton.tensors.contains(name)) return true;
  // MLX quantises the embedding as well.
  return IsLinearPart(part) && part != "bias" && skeleton.IsMatrix(fmt::format("{}.weight", linear));
}

}  // namespace

std::vector<std::string> KnownArchitectures() { return EmbeddedNames("architectures"); }

Result<Architecture> FindArchitecture(const std::string& model_type) {
  QC_ASSIGN(Json definition, LoadDefinition(model_type));
  const Json* translate = definition.Find("translate");
  const Json* other = translate == nullptr ? nullptr : translate->Find("model_type");
  return Architecture{other == nullptr ? model_type : other->text(), std::move(definition)};
}

std::vector<std::string> Architecture::Classes() const {
  std::vector<std::string> names;
  for (const Json& item : definition.Find("classes")->items()) names.push_back(item.Find("name")->text());
  return names;
}

Result<Skeleton> Architecture::Expand(const Json& config, const std::string& class_name) const {
  QC_ASSIGN(const Sizes sizes, Sizes::Read(definition, config));
  Skeleton skeleton;
  QC_ASSIGN(skeleton.layers, sizes.Eval("L"));
  const bool moe = definition.Find("moe") != nullptr;
  uint64_t experts = 1;
  if (moe) {
    QC_ASSIGN(experts, sizes.Eval("E"));
  }

  // How often a pattern is repeated: by layer, and by what the definition lists besides.
  struct Loop {
    std::string place;
    uint64_t count = 1;
  };
  std::vector<Loop> loops = {{"{layer}", skeleton.layers}};
  if (const Json* others = definition.Find("loops")) {
    for (const auto& [name, size] : others->members()) {
      loops.push_back({fmt::format("{{{}}}", name), 0});
      QC_ASSIGN(loops.back().count, sizes.Eval(size.text()));
      if (loops.back().count > kMaxLayers) return Malformed("config-size", "config.json: {} is {}, expected at most {}", definition.Find("sizes")->Find(size.text())->Find("key")->text(), loops.back().count, kMaxLayers);
    }
  }
  const auto loop_of = [&](const std::string& pattern) {
    const auto found = std::ranges::find_if(loops, [&](const Loop& loop) { return pattern.find(loop.place) != std::string::npos; });
    return found == loops.end() ? Loop() : *found;
  };

  for (const Json& item : definition.Find("tensors")->items()) {
    ExpectedTensor tensor;
    const std::string& pattern = item.Find("name")->text();
    for (const Json& dim : item.Find("shape")->items()) {
      QC_ASSIGN(const uint64_t size, sizes.Eval(dim.text()));
      tensor.shape.push_back(size);
    }
    const Loop loop = loop_of(pattern);
    for (uint64_t i = 0; i < loop.count; ++i) {
      tensor.name = loop.place.empty() ? pattern : Replace(pattern, loop.place, i);
      skeleton.tensors.emplace(tensor.name, tensor);
    }
  }

  const auto add_linear = [&](const Json& item) -> Status {
    ExpectedLinear linear;
    const std::string& pattern = item.Find("name")->text();
    QC_ASSIGN(linear.in_features, sizes.Eval(item.Find("in")->text()));
    QC_ASSIGN(linear.out_features, sizes.Eval(item.Find("out")->text()));
    linear.bias = DeclaresBias(*item.Find("bias"), config);
    if (const Json* key = item.Find("bias")->is_object() ? item.Find("bias")->Find("key") : nullptr) linear.bias_key = key->text();
    linear.router = item.Find("router") != nullptr;
    const Loop loop = loop_of(pattern);
    linear.in_block = loop.place == "{layer}";
    if (const Json* tied = item.Find("tied_to")) linear.tied_to = tied->text();
    const Json* feeders = item.Find("fed_by");
    if (feeders != nullptr) linear.channels_key = definition.Find("sizes")->Find(item.Find("in")->text())->Find("key")->text();
    const Json* kind = item.Find("layers");
    const uint64_t inner = pattern.find("{expert}") == std::string::npos ? 1 : experts;
    if (loop.count * inner + skeleton.linears.size() > kMaxLinears) return Malformed("config-size", "config.json describes more than {} linears", kMaxLinears);
    for (uint64_t i = 0; i < loop.count; ++i) {
      if (kind != nullptr && (kind->text() == "sparse") != IsSparse(config, i)) continue;
      const std::string placed = loop.place.empty() ? pattern : Replace(pattern, loop.place, i);
      for (uint64_t expert = 0; expert < inner; ++expert) {
        linear.name = Replace(placed, "{expert}", expert);
        linear.fed_by.clear();
        if (feeders != nullptr) {
          const std::string block = linear.name.substr(0, linear.name.rfind('.') + 1);
          for (const Json& feeder : feeders->items()) linear.fed_by.push_back(block + feeder.text());
        }
        skeleton.linears.emplace(linear.name, linear);
      }
    }
    return {};
  };
  for (const Json& item : definition.Find("linears")->items()) QC_TRY(add_linear(item));
  if (const Json* names = definition.Find("names")) QC_TRY(AddNames(*names, sizes, &skeleton));
  for (const Json& item : definition.Find("classes")->items()) {
    if (item.Find("name")->text() != class_name) continue;
    for (const Json& linear : item.Find("linears")->items()) QC_TRY(add_linear(linear));
    return skeleton;
  }
  return Refused("architecture-class", "config.json: class '{}' is not known for model_type '{}'; known are {}", Escape(class_name), model_type, Join(Classes(), ", "));
}

std::pair<std::string, std::string> SplitPart(const std::string& tensor) {
  const size_t dot = tensor.rfind('.');
  if (dot == std::string::npos) return {tensor, ""};
  return {tensor.substr(0, dot), tensor.substr(dot + 1)};
}

bool IsLinearPart(std::string_view suffix) {
  constexpr std::array<std::string_view, 4> kOthers = {"weight", "bias", "weight_g_idx", "zeros"};
  if (std::ranges::find(kOthers, suffix) != kOthers.end()) return true;
  return std::ranges::any_of(Layouts(), [&](const Layout& layout) { return layout.Part(suffix) != nullptr; });
}

size_t EndOfBlock(std::string_view name) {
  for (size_t begin = 0; begin < name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string_view piece = name.substr(begin, end - begin);
    if (!piece.empty() && std::ranges::all_of(piece, [](char c) { return c >= '0' && c <= '9'; })) return end;
    begin = end + 1;
  }
  return 0;
}

std::optional<std::string> Architecture::GgufName(const std::string& canonical) const {
  const auto [base, part] = SplitPart(canonical);
  const Numbered numbered = NumbersOut(base);
  const Json* name = definition.Find("gguf")->Find(numbered.pattern);
  if (name == nullptr) return std::nullopt;
  return NumbersIn(name->text(), numbered) + "." + part;
}

std::vector<Place> Architecture::Places(const Skeleton& skeleton, const std::string& name) const {
  if (IsKnown(skeleton, name)) return {{name, {}}};
  std::string rest = name;
  for (;;) {
    const auto [base, part] = SplitPart(rest);
    const Numbered numbered = NumbersOut(base);
    if (const auto found = skeleton.names.find(numbered.pattern); found != skeleton.names.end() && IsLinearPart(part)) {
      std::vector<Place> places = found->second;
      for (Place& place : places) place.name = NumbersIn(place.name, numbered);
      const bool known = std::ranges::all_of(places, [&skeleton, &suffix = part](const Place& place) { return skeleton.linears.contains(place.name) || skeleton.tensors.contains(place.name + "." + suffix); });
      for (Place& place : places) place.name += "." + part;
      if (known) return places;
    }
    const auto& wrappers = definition.Find("wrappers")->items();
    const auto wrapper = std::ranges::find_if(wrappers, [&](const Json& item) { return rest.starts_with(item.text()); });
    if (wrapper == wrappers.end()) break;
    rest.erase(0, wrapper->text().size());
  }
  const std::optional<std::string> canonical = CanonicalName(skeleton, name);
  return canonical.has_value() ? std::vector<Place>{{*canonical, {}}} : std::vector<Place>();
}

std::optional<std::string> Architecture::CanonicalName(const Skeleton& skeleton, const std::string& name) const {
  const auto known = [&](std::string_view candidate) { return IsKnown(skeleton, candidate); };
  const auto [gguf, part] = SplitPart(name);
  const Numbered numbered = NumbersOut(gguf);
  for (const auto& [ours, theirs] : definition.Find("gguf")->members()) {
    if (theirs.text() != numbered.pattern) continue;
    std::string candidate = NumbersIn(ours, numbered) + "." + part;
    if (known(candidate)) return candidate;
  }
  // Take wrappers off the front, one at a time; after each, try with and without "model.".
  std::string rest = name;
  for (;;) {
    if (known(rest)) return rest;
    if (known("model." + rest)) return "model." + rest;
    const auto& wrappers = definition.Find("wrappers")->items();
    const auto wrapper = std::ranges::find_if(wrappers, [&](const Json& item) { return rest.starts_with(item.text()); });
    if (wrapper == wrappers.end()) break;
    rest.erase(0, wrapper->text().size());
  }
  // torch.compile puts its wrapper anywhere.
  constexpr std::string_view kCompiled = "_orig_mod.";
  if (const size_t at = name.find(kCompiled); at != std::string::npos) {
    std::string without = name;
    return CanonicalName(skeleton, without.erase(at, kCompiled.size()));
  }
  return std::nullopt;
}

std::vector<std::string> Architecture::ModuleNames(const std::string& canonical) const {
  std::vector<std::string> names = {canonical};
  const Json* nested = definition.Find("modules");
  if (nested == nullptr) return names;
  for (const auto& [prefix, longer] : nested->members()) {
    if (canonical.starts_with(prefix)) names.push_back(longer.text() + canonical.substr(prefix.size()));
  }
  return names;
}

bool Architecture::IsDerived(std::string_view name) const {
  const auto& patterns = definition.Find("drop")->items();
  return std::ranges::any_of(patterns, [&](const Json& pattern) { return GlobMatch(pattern.text(), name); });
}

}  // namespace q2c
