#include "formats/weight_files.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "formats/base/text.h"

namespace q2c {
namespace {

// gptq_model-4bit-128g.bin (AutoGPTQ), qwen-7b-4bit-128g.pt (GPTQ-for-LLaMa), model-2bit.bin
bool NamesItsBits(std::string_view stem) {
  for (size_t at = stem.find("bit"); at != std::string_view::npos; at = stem.find("bit", at + 1)) {
    const bool digit = at > 1 && stem[at - 1] >= '2' && stem[at - 1] <= '8';
    const bool start = at > 1 && (stem[at - 2] == '-' || stem[at - 2] == '_');
    const bool end = at + 3 == stem.size() || stem[at + 3] == '-' || stem[at + 3] == '_';
    if (digit && start && end) return true;
  }
  return false;
}

}  // namespace

std::optional<ShardName> ParseShardName(const std::string& full) {
  std::string_view name = full;
  const size_t extension = name.rfind('.');
  if (extension == std::string_view::npos) return std::nullopt;
  name = name.substr(0, extension);
  const size_t of = name.rfind("-of-");
  if (of == std::string_view::npos) return std::nullopt;
  const size_t dash = name.rfind('-', of - 1);
  if (of == 0 || dash == std::string_view::npos) return std::nullopt;
  ShardName shard{std::string(name.substr(0, dash)), full.substr(name.size()), 0, 0};
  const auto number = [](std::string_view text, uint64_t* out) {
    const auto [rest, ec] = std::from_chars(text.data(), text.data() + text.size(), *out);
    return ec == std::errc{} && rest == text.data() + text.size();
  };
  if (!number(name.substr(dash + 1, of - dash - 1), &shard.number) || !number(name.substr(of + 4), &shard.count)) return std::nullopt;
  return shard;
}

Status CheckNumbering(const std::vector<std::string>& names) {
  struct Series {
    std::string extension;
    std::set<uint64_t> numbers;
  };
  std::map<std::pair<std::string, uint64_t>, Series> sets;
  for (const std::string& name : names) {
    if (const std::optional<ShardName> shard = ParseShardName(name)) {
      Series& series = sets[{shard->stem, shard->count}];
      series.extension = shard->extension;
      series.numbers.insert(shard->number);
    }
  }
  for (const auto& [key, series] : sets) {
    for (uint64_t i = 1; i <= key.second; ++i) {
      if (!series.numbers.contains(i)) {
        return Malformed("shard-missing", "shard '{}-{:05}-of-{:05}{}' is missing; complete the download", Escape(key.first), i, key.second, series.extension);
      }
      if (i > series.numbers.size() + 1) break;
    }
  }
  return {};
}

Result<std::vector<std::string>> ChooseWeights(const std::vector<std::string>& names, const std::string& base_name) {
  std::map<std::string, std::vector<std::string>> series;  // by what comes before the extension or the number
  for (const std::string& name : names) {
    const std::optional<ShardName> shard = ParseShardName(name);
    series[shard.has_value() ? fmt::format("{} of {}", shard->stem, shard->count) : name.substr(0, name.rfind('.'))].push_back(name);
  }
  const auto only = [](const std::vector<std::string>& group) { return group.size() == 1 || ParseShardName(group.front()).has_value(); };
  if (series.size() == 1 && only(series.begin()->second)) return series.begin()->second;
  if (const auto named = series.find(base_name); !base_name.empty() && named != series.end() && only(named->second)) return named->second;
  const auto speaks = [](const auto& entry) { return NamesItsBits(entry.first); };
  if (std::ranges::count_if(series, speaks) == 1) {
    const auto found = std::ranges::find_if(series, speaks);
    if (only(found->second)) return found->second;
  }
  return Malformed("weights-several", "several files may be the weights: {}; leave one of them in the folder, or name it as model_file_base_name in quantize_config.json", QuoteSome(names, 6));
}

}  // namespace q2c
