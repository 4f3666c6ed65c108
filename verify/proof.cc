#include "verify/proof.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "formats/base/text.h"
#include "verify/compare_parts.h"
#include "verify/texts.h"

namespace q2c {
namespace {

// Channels that only one side has do not count: they are zeros, as the comparison has seen.
bool SameBits(const Rows& a, const Rows& b, uint64_t rows) {
  for (uint64_t t = 0; t < rows; ++t) {
    if (std::memcmp(a.At(t), b.At(t), std::min(a.width, b.width) * sizeof(float)) != 0) return false;
  }
  return true;
}

// "layer 3, " of a name inside a layer.
std::string Where(const std::string& name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return fmt::format("'{}'", Escape(name));
  const std::string number = name.substr(kLayers.size(), name.find('.', kLayers.size()) - kLayers.size());
  return fmt::format("layer {}, '{}'", number, Escape(name));
}

Distance Measured(const Rows& a, const Rows& b, uint64_t rows) {
  Distance distance;
  double sum = 0;
  for (uint64_t t = 0; t < rows; ++t) {
    for (uint64_t j = 0; j < a.width; ++j) {
      const double value = a.At(t)[j];
      const double error = std::abs(value - double{b.At(t)[j]});
      distance.largest_value = std::max(distance.largest_value, std::abs(value));
      distance.largest_error = std::max(distance.largest_error, error);
      sum += error;
    }
  }
  distance.mean_error = rows == 0 ? 0 : sum / static_cast<double>(rows * a.width);
  return distance;
}

// Logarithms of the probabilities of every next token.
std::vector<double> LogSoftmax(const float* logits, uint64_t count) {
  const double largest = *std::max_element(logits, logits + count);
  double sum = 0;
  for (uint64_t j = 0; j < count; ++j) sum += std::exp(double{logits[j]} - largest);
  const double shift = largest + std::log(sum);
  std::vector<double> out(count);
  for (uint64_t j = 0; j < count; ++j) out[j] = double{logits[j]} - shift;
  return out;
}

double Loss(const Rows& logits, uint64_t first_row, const Tokens& tokens) {
  double sum = 0;
  for (size_t t = 0; t + 1 < tokens.size(); ++t) sum -= LogSoftmax(logits.At(first_row + t), logits.width)[tokens[t + 1]];
  return sum / static_cast<double>(tokens.size() - 1);
}

class Watch final : public ForwardWatch {
 public:
  Watch(const Model& source, bool compares, Comparison* comparison, FingerprintPass* fingerprint, bool meant_equal)
      : source_(source), compares_(compares), comparison_(comparison), fingerprint_(fingerprint), meant_equal_(meant_equal) {}

  void Begin(const std::string& linear, LinearTask* task) override {
    if (fingerprint_ != nullptr) fingerprint_->Watch(&task->sides[1]);
    if (comparison_ == nullptr) {  // nothing is claimed to be equal: both as their loaders compute
      for (LinearTask::Side& side : task->sides) side.stored_offsets = true;
      return;
    }
    const auto found = source_.linears.find(linear);
    if (found == source_.linears.end() || !found->second.quantised()) return;
    const StoredLinear stored = Stored(source_, found->second);
    task->sides[1].stored_offsets = comparison_->Rounds(stored);
    std::optional<LinearTask> check = comparison_->Take(stored);
    if (!check.has_value()) return;
    const StoredLinear& meant = check->sides[1].linear;
    const StoredLinear& read = task->sides[1].linear;
    if (meant.name != read.name || meant.layout != read.layout || meant.bits != read.bits) {
      findings_.push_back(Mismatch("exact-linear", "linear '{}' was written as '{}', {} bits, but the output's configs make it '{}', {} bits", Escape(meant.name), meant.layout, meant.bits, read.layout, read.bits));
    }
    task->begin_strip = check->begin_strip;
    task->check = check->check;
  }

  Status Took(const Step& step) override {
    if (step.task != nullptr && step.task->mismatch.has_value()) findings_.push_back(*step.task->mismatch);
    for (size_t i = 0; i < step.out.size(); ++i) {
      const Rows& rows = *step.out[i];
      if (std::ranges::all_of(rows.data, [](float value) { return std::isfinite(value); })) continue;
      const char* side = !compares_ ? "" : i == 1 ? " of what was written" : " of the source";
      return Mismatch("forward-not-finite", "{}{}: its result holds NaN or infinity", Where(step.name), side);
    }
    if (compares_ && meant_equal_ && first_difference_.empty() && Caused(step)) first_difference_ = Where(step.name);
    return {};
  }

  Status State(uint64_t, const std::vector<const Rows*>& states) override {
    if (compares_) {
      distances_.push_back(Measured(*states[0], *states[1], states[1]->count));
      equal_ = equal_ && SameBits(*states[0], *states[1], states[1]->count);
    } else {
      states_.push_back(*states[0]);
    }
    return {};
  }

  std::vector<Error>& findings() { return findings_; }
  const std::string& first_difference() const { return first_difference_; }
  std::vector<Distance>& distances() { return distances_; }
  std::vector<Rows>& states() { return states_; }
  bool equal() const { return equal_; }

 private:
  // Did equal inputs become different outputs here?
  static bool Caused(const Step& step) {
    const uint64_t rows = step.first_rows[0];
    if (rows != step.first_rows[1]) return false;  // tokens went to other experts: an earlier step is to blame
    if (!step.in.empty() && !SameBits(*step.in[0], *step.in[1], rows)) return false;
    return !SameBits(*step.out[0], *step.out[1], rows);
  }

  const Model& source_;
  bool compares_;
  Comparison* comparison_;
  FingerprintPass* fingerprint_;
  bool meant_equal_;
  bool equal_ = true;
  std::string first_difference_;
  std::vector<Error> findings_;
  std::vector<Distance> distances_;
  std::vector<Rows> states_;
};

// What goes into a pass, and what its logits say of the text.
struct Setup {
  Tokens prompt;
  Tokens text;  // may be empty
  TextScore score;
};

Result<Setup> SetUp(const Model& model, const ProofOptions& options) {
  Setup setup;
  QC_TRY(CanRunForward(model));
  const uint64_t vocabulary = model.skeleton.tensors.find("model.embed_tokens.weight")->second.shape[0];
  setup.prompt = options.tokens.empty() ? SpreadTokens(vocabulary, options.spread) : options.tokens;
  if (!model.skeleton.linears.contains("lm_head")) return setup;
  QC_ASSIGN(const KnownText* known, FindText(*model.checkpoint));
  if (known != nullptr && std::ranges::all_of(known->tokens, [&](uint32_t token) { return token < vocabulary; })) {
    setup.text = known->tokens;
    setup.score.vocabulary = known->vocabulary;
  } else if (options.tokens.size() > 1) {
    setup.text = options.tokens;
    setup.score.vocabulary = "--tokens";
  }
  setup.score.tokens = setup.text.size();
  return setup;
}

std::vector<ForwardSide> SidesOf(const Model& source, const Model* output, const Setup& setup, const ProofOptions& options) {
  std::vector<ForwardSide> sides = {{&source, {setup.prompt}, ""}};
  if (!setup.text.empty()) sides[0].sequences.push_back(setup.text);
  if (output != nullptr) sides.push_back({output, {setup.prompt}, ""});
  const auto gptq = std::ranges::find_if(source.linears, [](const auto& entry) { return entry.second.quantised() && entry.second.layout->method == "gptq"; });
  if (options.contested && !setup.text.empty() && gptq != source.linears.end()) {
    sides.push_back({&source, {setup.text}, gptq->second.layout->name == "gptq-v1" ? "gptq-v2" : "gptq-v1"});
  }
  return sides;
}

void Score(const Setup& setup, const std::vector<ForwardSide>& sides, const std::vector<Rows>& logits, ForwardReport* report) {
  if (setup.text.size() < 2 || logits.empty()) return;
  TextScore score = setup.score;
  score.vocabulary_size = logits[0].width;
  score.loss = Loss(logits[0], setup.prompt.size(), setup.text);
  if (!sides.back().reading.empty()) {
    score.other_reading = sides.back().reading;
    score.other_loss = Loss(logits.back(), 0, setup.text);
  }
  report->text = std::move(score);
}

void CompareLogits(const Rows& a, const Rows& b, ForwardReport* report) {
  report->logits = Measured(a, b, b.count);
  report->equal = report->equal && SameBits(a, b, b.count);
  double sum = 0;
  for (uint64_t t = 0; t < b.count; ++t) {
    const std::vector<double> p = LogSoftmax(a.At(t), a.width);
    const std::vector<double> q = LogSoftmax(b.At(t), b.width);
    for (uint64_t j = 0; j < a.width; ++j) sum += std::exp(p[j]) * (p[j] - q[j]);
    if (std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin()) ++report->same_top;
  }
  report->divergence = std::max(0.0, sum / static_cast<double>(b.count));
}

// Which convention the output's zero points were written in, since its data need not show it.
std::optional<ZeroConvention> ClaimedConvention(const Manifest& manifest) {
  for (const ManifestLinear& linear : manifest.linears) {
    if (linear.layout == "gptq-v1") return ZeroConvention::kV1;
    if (linear.layout == "gptq-v2") return ZeroConvention::kV2;
  }
  return std::nullopt;
}

// How far logits may be apart, in units of the largest, where sums are taken in another order:
// float32 over some thousand channels and some dozen layers. A wrong order leaves nothing of them.
constexpr double kOrderTolerance = 1e-3;

// A linear takes the channels in the order, and in the number, in which those that feed it give them.
Status CheckChannels(const Model& source, const Manifest& manifest) {
  std::map<std::string, const ManifestLinear*> claims;
  for (const ManifestLinear& claim : manifest.linears) claims.emplace(claim.source, &claim);
  const auto claim_of = [&](const std::string& name) -> const ManifestLinear* {
    const auto linear = source.linears.find(name);
    if (linear == source.linears.end() || !linear->second.quantised()) return nullptr;
    const auto found = claims.find(Stored(source, linear->second).name);
    return found == claims.end() ? nullptr : found->second;
  };
  std::set<std::string> accounted;
  for (const auto& [name, linear] : source.linears) {
    const ManifestLinear* taker = claim_of(name);
    if (linear.expected.fed_by.empty() || taker == nullptr) continue;
    accounted.insert(taker->source);
    for (const std::string& feeder : linear.expected.fed_by) {
      const ManifestLinear* giver = claim_of(feeder);
      if (giver == nullptr) continue;
      accounted.insert(giver->source);
      if (giver->order_of == taker->order_of && (giver->order_of.empty() || (taker->orders_inputs && !giver->orders_inputs)) && giver->OutputOutputs() == taker->OutputInputs()) continue;
      return Mismatch("exact-order", "linear '{}' was written with {} outputs in the order of '{}', but '{}' takes {} inputs in the order of '{}'", Escape(giver->name), giver->OutputOutputs(), Escape(giver->order_of),
                      Escape(taker->name), taker->OutputInputs(), Escape(taker->order_of));
    }
  }
  for (const ManifestLinear& claim : manifest.linears) {
    if ((claim.order_of.empty() && !claim.Padded()) || accounted.contains(claim.source)) continue;
    return Mismatch("exact-order", "linear '{}' was written with other channels, but nothing gives or takes them so", Escape(claim.name));
  }
  return {};
}

// A finding goes into the proof, any other error ends it.
Status Keep(Status status, Proof* proof) {
  if (status.ok() || status.error().code != Code::kFindings) return status;
  proof->findings.push_back(std::move(status).TakeError());
  return {};
}

// What the logits of both sides are meant to be.
enum class Meant { kEqual, kReordered, kRounded };

// Both sides through the pass.
Result<ForwardReport> RunPass(const Model& source, const Model& output, const ProofOptions& options, Meant meant, Watch* watch) {
  QC_ASSIGN(const Setup setup, SetUp(source, options));
  const std::vector<ForwardSide> sides = SidesOf(source, &output, setup, options);
  QC_ASSIGN(const ForwardResult result, RunForward(sides, options.run, watch));
  ForwardReport report;
  report.tokens = setup.prompt;
  report.equal = watch->equal();
  report.reordered = meant == Meant::kReordered;
  report.states = std::move(watch->distances());
  if (meant == Meant::kEqual) report.first_difference = watch->first_difference();
  report.experts = result.experts;
  report.experts_reached = result.experts_reached;
  if (!result.logits.empty()) CompareLogits(result.logits[0], result.logits[1], &report);
  Score(setup, sides, result.logits, &report);
  return report;
}

Status ProvePass(const Model& source, const Model& output, Comparison* comparison, FingerprintPass* fingerprint, Meant meant, const ProofOptions& options, Proof* proof) {
  Watch watch(source, true, comparison, fingerprint, meant == Meant::kEqual);
  Result<ForwardReport> passed = RunPass(source, output, options, meant, &watch);
  std::ranges::move(watch.findings(), std::back_inserter(proof->findings));
  if (!passed.ok()) return std::move(passed).TakeError();
  const ForwardReport& report = passed.value();
  const bool apart = meant == Meant::kReordered && !(report.logits.largest_error <= kOrderTolerance * report.logits.largest_value);
  if (apart) {
    proof->findings.push_back(Mismatch("forward-differs", "the forward pass of what was written differs from the source's by more than the order of summation can explain: logits by up to {:.3g} of {:.3g}", report.logits.largest_error,
                                       report.logits.largest_value));
  }
  if (meant == Meant::kEqual && !report.equal) {
    proof->findings.push_back(Mismatch("forward-differs", "the forward pass of what was written differs from the source's, first in {}; logits by up to {:.3g} of {:.3g}",
                                       report.first_difference.empty() ? "an unknown place" : report.first_difference, report.logits.largest_error, report.logits.largest_value));
  }
  if (report.text.has_value() && !report.text->other_reading.empty() && report.text->decides() && report.text->other_loss < report.text->loss) {
    proof->findings.push_back(Mismatch("zeros-contradicted", "a real text is likelier with the zero points read as {} (loss {:.3f}) than as they were read (loss {:.3f}); see --zeros; if you know better than the text, --verify=exact does not ask it", report.text->other_reading,
                                       report.text->other_loss, report.text->loss));
  }
  proof->forward = std::move(passed).value();
  return {};
}

}  // namespace

Result<Proof> Prove(const Model& source, const Checkpoint& output, const Manifest& manifest, const ProofOptions& options) {
  Proof proof;
  Result<Comparison> begun = Comparison::Begin(*source.checkpoint, output, manifest);
  if (!begun.ok()) {
    // Without accounts there is no telling what belongs to what.
    QC_TRY(Keep(std::move(begun).TakeError(), &proof));
    return proof;
  }
  Comparison comparison = std::move(begun).value();
  const bool rounded = std::ranges::any_of(manifest.tensors, [](const ManifestTensor& tensor) { return tensor.exactness == "rounded"; });
  const bool reordered = std::ranges::any_of(manifest.linears, [](const ManifestLinear& linear) { return !linear.order_of.empty(); });
  const Meant meant = rounded ? Meant::kRounded : reordered ? Meant::kReordered : Meant::kEqual;
  QC_TRY(Keep(CheckChannels(source, manifest), &proof));
  Result<Model> model = UnderstandModel(output, {{}, ClaimedConvention(manifest), source.text_only, nullptr, source.architecture.IsGeneric()});
  if (!model.ok() && model.error().code != Code::kMalformed && model.error().code != Code::kRefused) return std::move(model).TakeError();
  std::optional<FingerprintPass> fingerprint;
  if (model.ok()) {
    fingerprint.emplace(model.value());
    if (options.forward) QC_TRY(Keep(ProvePass(source, model.value(), &comparison, &*fingerprint, meant, options, &proof), &proof));
  } else {
    proof.findings.push_back(Mismatch("output-model", "what was written makes no sense as a model: {}", model.error().message));
  }
  QC_TRY(Keep(comparison.CompareRest(options.run, fingerprint.has_value() ? &*fingerprint : nullptr, &proof.findings), &proof));
  QC_TRY(Keep(comparison.CompareOthers(options.run), &proof));
  proof.compared = comparison.Summary();
  if (fingerprint.has_value() && proof.findings.empty()) {
    QC_ASSIGN(proof.fingerprint, fingerprint->Finish(options.run));
  }
  return proof;
}

Result<ForwardReport> CompareForward(const Model& a, const Model& b, const ProofOptions& options) {
  Watch watch(a, true, nullptr, nullptr, false);
  return RunPass(a, b, options, Meant::kRounded, &watch);
}

Result<Observation> Observe(const Model& model, const ProofOptions& options) {
  QC_ASSIGN(const Setup setup, SetUp(model, options));
  const std::vector<ForwardSide> sides = SidesOf(model, nullptr, setup, options);
  Watch watch(model, false, nullptr, nullptr, false);
  QC_ASSIGN(ForwardResult result, RunForward(sides, options.run, &watch));
  Observation seen;
  seen.report.tokens = setup.prompt;
  seen.report.experts = result.experts;
  seen.report.experts_reached = result.experts_reached;
  Score(setup, sides, result.logits, &seen.report);
  const auto keep = [&](Rows rows) {
    rows.count = setup.prompt.size();  // without the text
    rows.data.resize(rows.count * rows.stride);
    return rows;
  };
  for (Rows& state : watch.states()) seen.states.push_back(keep(std::move(state)));
  if (!result.logits.empty()) seen.logits = keep(std::move(result.logits[0]));
  return seen;
}

}  // namespace q2c
