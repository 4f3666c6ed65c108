#include "verify/forward.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "formats/base/text.h"

namespace q2c {
namespace {

// The rows of all sides.
struct Lanes {
  std::vector<Rows> rows;
  std::vector<uint64_t> first_rows;  // of the first sequence

  std::vector<const Rows*> Pointers() const {
    std::vector<const Rows*> pointers;
    for (const Rows& each : rows) pointers.push_back(&each);
    return pointers;
  }
};

StoredLinear StoredWeight(const Model& model, const std::string& name) {
  const auto linear = model.linears.find(name);
  if (linear != model.linears.end() && (linear->second.quantised() || linear->second.Part("weight").has_value())) return Stored(model, linear->second);
  if (name == "lm_head") return StoredWeight(model, "model.embed_tokens");  // tied
  return StoredMatrix(model, model.tensors.at(name + ".weight"));
}

Result<std::vector<float>> ReadVector(const Model& model, const TensorInfo& tensor) {
  QC_ASSIGN(const std::vector<uint32_t> bits, WidenedBits(*model.checkpoint, tensor));
  std::vector<float> values(bits.size());
  std::ranges::transform(bits, values.begin(), [](uint32_t b) { return std::bit_cast<float>(b); });
  return values;
}

Result<std::vector<float>> ReadWeight(const Model& model, const std::string& name) { return ReadVector(model, model.info(model.tensors.at(name + ".weight"))); }

Status AddBias(const Model& model, const std::string& name, Rows* rows) {
  const auto linear = model.linears.find(name);
  if (linear == model.linears.end() || !linear->second.Part("bias").has_value()) return {};
  QC_ASSIGN(std::vector<float> bias, ReadVector(model, model.info(*linear->second.Part("bias"))));
  const auto first = bias.begin() + static_cast<std::ptrdiff_t>(linear->second.rows.first);
  bias = {first, first + static_cast<std::ptrdiff_t>(linear->second.expected.out_features)};
  // Zeros are not added: that would turn −0 into 0, where the other side has no bias at all.
  if (std::ranges::all_of(bias, [](float value) { return value == 0; })) return {};
  for (uint64_t t = 0; t < rows->count; ++t) {
    for (uint64_t n = 0; n < bias.size(); ++n) rows->At(t)[n] += bias[n];
  }
  return {};
}

void NormRow(const std::vector<float>& weight, float eps, const float* in, float* out) {
  double sum = 0;
  for (size_t j = 0; j < weight.size(); ++j) sum += double{in[j]} * in[j];
  const auto factor = static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(weight.size()) + double{eps}));
  for (size_t j = 0; j < weight.size(); ++j) out[j] = weight[j] * (in[j] * factor);
}

// Dimension j turns with dimension j + head_dim / 2.
void Rotate(const ForwardConfig& config, const std::vector<float>& frequencies, uint64_t position, uint64_t heads, float* row) {
  const uint64_t half = config.head_dim / 2;
  for (uint64_t j = 0; j < half; ++j) {
    const float angle = static_cast<float>(position) * frequencies[j];
    const float cosine = std::cos(angle) * config.rope_scale;
    const float sine = std::sin(angle) * config.rope_scale;
    for (uint64_t h = 0; h < heads; ++h) {
      float& left = row[h * config.head_dim + j];
      float& right = row[h * config.head_dim + j + half];
      const float turned = left * cosine - right * sine;
      right = right * cosine + left * sine;
      left = turned;
    }
  }
}

// What query `t` of head `h` makes of the values it sees; rows count from those of its sequence.
void Attend(const ForwardConfig& config, uint64_t first, uint64_t begin, uint64_t t, uint64_t h, const Rows& q, const Rows& k, const Rows& v, Rows* out) {
  const uint64_t dim = config.head_dim;
  const uint64_t kv = h / (config.heads / config.kv_heads) * dim;
  const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
  const float* query = q.At(first + t) + h * dim;
  std::vector<double> weights(t + 1 - begin);
  double largest = -std::numeric_limits<double>::infinity();
  for (uint64_t s = begin; s <= t; ++s) {
    const float* key = k.At(first + s) + kv;
    double dot = 0;
    for (uint64_t j = 0; j < dim; ++j) dot += double{query[j]} * key[j];
    weights[s - begin] = dot * scale;
    largest = std::max(largest, dot * scale);
  }
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - largest);
  float* mixed = out->At(first + t) + h * dim;
  for (uint64_t s = begin; s <= t; ++s) {
    const auto weight = static_cast<float>(weights[s - begin] / sum);
    const float* value = v.At(first + s) + kv;
    for (uint64_t j = 0; j < dim; ++j) mixed[j] += weight * value[j];
  }
}

Rows Mix(const ForwardConfig& config, std::optional<uint64_t> window, const std::vector<Tokens>& sequences, Rows* q, Rows* k, const Rows& v) {
  Rows out(q->count, q->width);
  uint64_t first = 0;
  for (const Tokens& tokens : sequences) {
    const std::vector<float> frequencies = config.Frequencies(tokens.size());
    for (uint64_t t = 0; t < tokens.size(); ++t) {
      Rotate(config, frequencies, t, config.heads, q->At(first + t));
      Rotate(config, frequencies, t, config.kv_heads, k->At(first + t));
    }
    for (uint64_t t = 0; t < tokens.size(); ++t) {
      const uint64_t begin = window.has_value() && t + 1 > *window ? t + 1 - *window : 0;
      for (uint64_t h = 0; h < config.heads; ++h) Attend(config, first, begin, t, h, *q, *k, v, &out);
    }
    first += tokens.size();
  }
  return out;
}

// Which experts a token goes to, in the order of their numbers, and with what weight.
std::vector<std::pair<uint64_t, float>> Route(const ForwardConfig& config, const float* scores, uint64_t experts) {
  std::vector<double> weights(experts);
  const float largest = *std::max_element(scores, scores + experts);
  double sum = 0;
  for (uint64_t e = 0; e < experts; ++e) sum += weights[e] = std::exp(double{scores[e]} - double{largest});
  std::vector<uint64_t> order(experts);
  std::iota(order.begin(), order.end(), uint64_t{0});
  std::ranges::stable_sort(order, [&](uint64_t a, uint64_t b) { return weights[a] > weights[b]; });
  order.resize(std::min(config.experts_per_token, experts));
  if (config.normalise_experts) sum = std::accumulate(order.begin(), order.end(), 0.0, [&](double all, uint64_t e) { return all + weights[e]; });
  std::ranges::sort(order);
  std::vector<std::pair<uint64_t, float>> chosen;
  for (const uint64_t e : order) chosen.emplace_back(e, static_cast<float>(weights[e] / sum));
  return chosen;
}

class Pass {
 public:
  Pass(const std::vector<ForwardSide>& sides, const RunOptions& options, ForwardWatch* watch) : sides_(sides), options_(options), watch_(watch) {}

  Result<ForwardResult> Run() {
    for (const ForwardSide& side : sides_) {
      QC_ASSIGN(ForwardConfig config, ReadForwardConfig(*side.model));
      configs_.push_back(std::move(config));
      const ForwardConfig& first = configs_.front();
      const ForwardConfig& last = configs_.back();
      if (last.layers != first.layers || last.hidden != first.hidden) {
        return MakeError(Code::kFindings, "forward", "one side has {} layers of width {}, the other {} of width {}", first.layers, first.hidden, last.layers, last.hidden);
      }
    }
    const uint64_t layers = configs_.front().layers;
    QC_TRY(Embed());
    for (uint64_t layer = 0; layer < layers; ++layer) {
      QC_TRY(watch_->State(layer, states_.Pointers()));
      const std::string prefix = fmt::format("model.layers.{}", layer);
      QC_TRY(Attention(layer, prefix));
      QC_TRY(FeedForward(prefix));
    }
    QC_ASSIGN(states_, Norm("model.norm", states_));
    QC_TRY(watch_->State(layers, states_.Pointers()));
    QC_TRY(Head());
    return std::move(result_);
  }

 private:
  Status Embed() {
    const std::string name = "model.embed_tokens";
    for (const ForwardSide& side : sides_) {
      uint64_t count = 0;
      for (const Tokens& tokens : side.sequences) count += tokens.size();
      LinearTiles embedding(StoredWeight(*side.model, name));
      QC_TRY(embedding.Prepare());
      const uint64_t width = embedding.linear().in_features;
      Rows state(count, width);
      std::vector<float> panel(width * kPanelOutputs);
      uint64_t row = 0;
      for (const Tokens& tokens : side.sequences) {
        for (const uint32_t token : tokens) {
          if (token >= embedding.linear().out_features) return Usage("tokens", "token id {}: the vocabulary has {} entries", token, embedding.linear().out_features);
          QC_TRY(embedding.ReadStrip(token, 1));
          QC_TRY(embedding.ReadTile(0, width));
          embedding.FillPanel(0, 0, width, panel.data());
          for (uint64_t j = 0; j < width; ++j) state.At(row)[j] = panel[j * kPanelOutputs];
          ++row;
        }
      }
      states_.rows.push_back(std::move(state));
      states_.first_rows.push_back(side.sequences.front().size());
    }
    return watch_->Took({name, {}, states_.Pointers(), states_.first_rows, nullptr});
  }

  Result<Lanes> Norm(const std::string& name, const Lanes& in) {
    Lanes out{{}, in.first_rows};
    for (size_t i = 0; i < sides_.size(); ++i) {
      QC_ASSIGN(const std::vector<float> weight, ReadWeight(*sides_[i].model, name));
      Rows rows(in.rows[i].count, in.rows[i].width);
      for (uint64_t t = 0; t < rows.count; ++t) NormRow(weight, configs_[i].norm_eps, in.rows[i].At(t), rows.At(t));
      out.rows.push_back(std::move(rows));
    }
    QC_TRY(watch_->Took({name, in.Pointers(), out.Pointers(), in.first_rows, nullptr}));
    return out;
  }

  // x · Wᵀ + bias for several linears at once, so that all threads have work.
  Result<std::vector<Lanes>> Multiply(const std::vector<std::string>& names, const std::vector<const Lanes*>& x) {
    std::vector<LinearTask> tasks(names.size());
    std::vector<Lanes> y(names.size());
    for (size_t j = 0; j < names.size(); ++j) {
      y[j].first_rows = x[j]->first_rows;
      for (size_t i = 0; i < sides_.size(); ++i) {
        StoredLinear stored = StoredWeight(*sides_[i].model, names[j]);
        if (!sides_[i].reading.empty() && stored.layout.starts_with("gptq")) stored.layout = sides_[i].reading;
        y[j].rows.emplace_back(x[j]->rows[i].count, stored.out_features);
        tasks[j].sides.push_back({std::move(stored), x[j]->rows[i].count == 0 ? nullptr : &x[j]->rows[i], nullptr});
      }
      for (size_t i = 0; i < sides_.size(); ++i) tasks[j].sides[i].y = &y[j].rows[i];
      watch_->Begin(names[j], &tasks[j]);
    }
    QC_TRY(RunLinears(&tasks, options_));
    for (size_t j = 0; j < names.size(); ++j) {
      for (size_t i = 0; i < sides_.size(); ++i) QC_TRY(AddBias(*sides_[i].model, names[j], &y[j].rows[i]));
      QC_TRY(watch_->Took({names[j], x[j]->Pointers(), y[j].Pointers(), y[j].first_rows, &tasks[j]}));
    }
    return y;
  }

  Status Attention(uint64_t layer, const std::string& prefix) {
    QC_ASSIGN(const Lanes x, Norm(prefix + ".input_layernorm", states_));
    const std::string attention = prefix + ".self_attn";
    QC_ASSIGN(std::vector<Lanes> parts, Multiply({attention + ".q_proj", attention + ".k_proj", attention + ".v_proj"}, {&x, &x, &x}));
    for (size_t part = 0; part < 2; ++part) {
      const std::string norm = attention + (part == 0 ? ".q_norm" : ".k_norm");
      if (sides_[0].model->skeleton.tensors.contains(norm + ".weight")) QC_TRY(NormHeads(norm, &parts[part]));
    }
    const Lanes queries = parts[0];
    Lanes mixed{{}, x.first_rows};
    for (size_t i = 0; i < sides_.size(); ++i) {
      mixed.rows.push_back(Mix(configs_[i], configs_[i].window[layer], sides_[i].sequences, &parts[0].rows[i], &parts[1].rows[i], parts[2].rows[i]));
    }
    QC_TRY(watch_->Took({attention, queries.Pointers(), mixed.Pointers(), mixed.first_rows, nullptr}));
    QC_ASSIGN(const std::vector<Lanes> out, Multiply({attention + ".o_proj"}, {&mixed}));
    Add(out[0]);
    return {};
  }

  // Qwen3 normalises each head of queries and keys.
  Status NormHeads(const std::string& name, Lanes* lanes) {
    const Lanes before = *lanes;
    for (size_t i = 0; i < sides_.size(); ++i) {
      QC_ASSIGN(const std::vector<float> weight, ReadWeight(*sides_[i].model, name));
      Rows& rows = lanes->rows[i];
      for (uint64_t t = 0; t < rows.count; ++t) {
        for (uint64_t at = 0; at < rows.width; at += weight.size()) NormRow(weight, configs_[i].norm_eps, rows.At(t) + at, rows.At(t) + at);
      }
    }
    return watch_->Took({name, before.Pointers(), lanes->Pointers(), lanes->first_rows, nullptr});
  }

  Status FeedForward(const std::string& prefix) {
    QC_ASSIGN(const Lanes x, Norm(prefix + ".post_attention_layernorm", states_));
    const std::string mlp = prefix + ".mlp";
    if (sides_[0].model->skeleton.linears.contains(mlp + ".gate")) return Experts(mlp, x);
    QC_ASSIGN(const std::vector<Lanes> out, SwiGlu({mlp}, {&x}));
    Add(out[0]);
    return {};
  }

  // down(silu(gate(x)) · up(x)) of several blocks, each with rows of its own.
  Result<std::vector<Lanes>> SwiGlu(const std::vector<std::string>& blocks, const std::vector<const Lanes*>& x) {
    std::vector<std::string> names;
    std::vector<const Lanes*> inputs;
    for (size_t b = 0; b < blocks.size(); ++b) {
      for (const char* part : {".gate_proj", ".up_proj"}) {
        names.push_back(blocks[b] + part);
        inputs.push_back(x[b]);
      }
    }
    QC_ASSIGN(std::vector<Lanes> halves, Multiply(names, inputs));
    names.clear();
    inputs.clear();
    for (size_t b = 0; b < blocks.size(); ++b) {
      for (size_t i = 0; i < sides_.size(); ++i) {
        std::vector<float>& gate = halves[2 * b].rows[i].data;
        const std::vector<float>& up = halves[2 * b + 1].rows[i].data;
        for (size_t j = 0; j < gate.size(); ++j) gate[j] = gate[j] / (1.0F + std::exp(-gate[j])) * up[j];
      }
      names.push_back(blocks[b] + ".down_proj");
      inputs.push_back(&halves[2 * b]);
    }
    return Multiply(names, inputs);
  }

  Status Experts(const std::string& mlp, const Lanes& x) {
    const bool shared = sides_[0].model->skeleton.linears.contains(mlp + ".shared_expert_gate");  // Qwen3 has none
    std::vector<std::string> routers = {mlp + ".gate"};
    if (shared) routers.push_back(mlp + ".shared_expert_gate");
    QC_ASSIGN(const std::vector<Lanes> gates, Multiply(routers, std::vector<const Lanes*>(routers.size(), &x)));
    const uint64_t experts = gates[0].rows[0].width;
    // Every expert gets the rows of the tokens that chose it.
    struct Share {
      uint64_t row = 0;
      float weight = 0;
    };
    std::vector<std::vector<std::vector<Share>>> shares(experts, std::vector<std::vector<Share>>(sides_.size()));
    for (size_t i = 0; i < sides_.size(); ++i) {
      for (uint64_t t = 0; t < x.rows[i].count; ++t) {
        for (const auto& [expert, weight] : Route(configs_[i], gates[0].rows[i].At(t), experts)) shares[expert][i].push_back({t, weight});
      }
    }
    std::vector<Lanes> inputs(experts);
    std::vector<std::string> blocks;
    std::vector<const Lanes*> pointers;
    for (uint64_t e = 0; e < experts; ++e) {
      for (size_t i = 0; i < sides_.size(); ++i) {
        const std::vector<Share>& mine = shares[e][i];
        Rows rows(mine.size(), x.rows[i].width);
        for (size_t t = 0; t < mine.size(); ++t) std::copy_n(x.rows[i].At(mine[t].row), rows.width, rows.At(t));
        inputs[e].rows.push_back(std::move(rows));
        inputs[e].first_rows.push_back(static_cast<uint64_t>(std::ranges::count_if(mine, [&](const Share& share) { return share.row < x.first_rows[i]; })));
      }
      blocks.push_back(fmt::format("{}.experts.{}", mlp, e));
      pointers.push_back(&inputs[e]);
      ++result_.experts;
      if (!shares[e][0].empty()) ++result_.experts_reached;
    }
    if (shared) {
      blocks.push_back(mlp + ".shared_expert");
      pointers.push_back(&x);
    }
    QC_ASSIGN(const std::vector<Lanes> outputs, SwiGlu(blocks, pointers));
    Lanes sums{{}, x.first_rows};
    for (size_t i = 0; i < sides_.size(); ++i) {
      Rows sum = shared ? outputs.back().rows[i] : Rows(x.rows[i].count, x.rows[i].width);
      for (uint64_t t = 0; shared && t < sum.count; ++t) {
        const float gate = 1.0F / (1.0F + std::exp(-gates[1].rows[i].At(t)[0]));
        for (uint64_t j = 0; j < sum.width; ++j) sum.At(t)[j] *= gate;
      }
      for (uint64_t e = 0; e < experts; ++e) {
        for (size_t t = 0; t < shares[e][i].size(); ++t) {
          const Share& share = shares[e][i][t];
          const float* out = outputs[e].rows[i].At(t);
          for (uint64_t j = 0; j < sum.width; ++j) sum.At(share.row)[j] += share.weight * out[j];
        }
      }
      sums.rows.push_back(std::move(sum));
    }
    Add(sums);
    return {};
  }

  void Add(const Lanes& what) {
    for (size_t i = 0; i < sides_.size(); ++i) {
      for (size_t j = 0; j < states_.rows[i].data.size(); ++j) states_.rows[i].data[j] += what.rows[i].data[j];
    }
  }

  Status Head() {
    for (const std::string name : {"lm_head", "score"}) {
      if (!sides_[0].model->skeleton.linears.contains(name)) continue;
      QC_ASSIGN(std::vector<Lanes> out, Multiply({name}, {&states_}));
      result_.logits = std::move(out[0].rows);
    }
    return {};
  }

  const std::vector<ForwardSide>& sides_;
  const RunOptions& options_;
  ForwardWatch* watch_;
  std::vector<ForwardConfig> configs_;
  Lanes states_;  // the residual stream
  ForwardResult result_;
};

}  // namespace

Result<ForwardResult> RunForward(const std::vector<ForwardSide>& sides, const RunOptions& options, ForwardWatch* watch) { return Pass(sides, options, watch).Run(); }

Result<Tokens> ParseTokens(const std::string& text) {
  constexpr size_t kMost = 4096;
  Tokens tokens;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const std::optional<uint64_t> id = Json::Number(text.substr(at, comma - at)).AsU64();
    if (!id.has_value() || *id > UINT32_MAX || tokens.size() == kMost) return Usage("tokens", "--tokens={}: expected up to {} ids such as 9707,11,1879", Escape(text, 60), kMost);
    tokens.push_back(static_cast<uint32_t>(*id));
    at = comma + 1;
  }
  return tokens;
}

Tokens SpreadTokens(uint64_t vocabulary, uint64_t count) {
  Tokens tokens;
  for (uint64_t i = 0; i < count; ++i) tokens.push_back(static_cast<uint32_t>((2 * i + 1) * vocabulary / (2 * count)));
  return tokens;
}

}  // namespace q2c
