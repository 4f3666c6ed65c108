#include "verify/products.h"

#include <algorithm>

#include "formats/base/parallel.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

struct Strip {
  LinearTask* task = nullptr;
  const std::vector<LinearTiles>* prepared = nullptr;
  uint64_t first_output = 0;
  uint64_t outputs = 0;
  std::optional<Error> mismatch;
};

uint64_t StoredBytes(const LinearTiles& tiles) {
  const uint64_t bits = !tiles.dense() ? tiles.linear().bits : tiles.linear().layout == "dense-fp32" ? 32 : 16;
  return tiles.tile().inputs * tiles.tile().outputs * bits / 8;
}

// Panels of weights, once, for the product and for the watch.
void RunPanels(const LinearTiles& tiles, const LinearTask::Side& side, StripWatch* watch, float* panel) {
  if (side.x == nullptr && watch == nullptr) return;
  const ReferenceTile& tile = tiles.tile();
  const bool stored_offsets = side.stored_offsets && tiles.whole_zeros() && !tiles.parameters().offsets.empty();
  for (uint64_t first = 0; first < tile.inputs; first += kProductInputs) {
    const uint64_t inputs = std::min(kProductInputs, tile.inputs - first);
    for (uint64_t column = 0; column < tile.outputs; column += kPanelOutputs) {
      if (watch != nullptr || !stored_offsets) tiles.FillPanel(column, first, inputs, panel);
      if (watch != nullptr) watch->Panel(column, inputs, panel);
      if (side.x == nullptr) continue;
      if (stored_offsets) tiles.FillPanel(column, first, inputs, panel, true);
      AddProduct(side.x->data.data() + tile.first_input + first, side.x->stride, side.x->count, panel, inputs, side.y->data.data() + tile.first_output + column, side.y->stride);
    }
  }
}

// Keeps what a check found and drops the check; everything else goes on up.
Status Note(Status status, Strip* strip, std::unique_ptr<TileCheck>* check) {
  if (status.ok() || status.error().code != Code::kFindings) return status;
  strip->mismatch = std::move(status).TakeError();
  check->reset();
  return {};
}

// What of the output was read and does not make sense was written wrongly.
Status Blame(Status status, const LinearTask& task, size_t side) {
  if (status.ok() || !task.check || side != 1 || status.error().code != Code::kMalformed) return status;
  const StoredLinear& linear = task.sides[side].linear;
  return MakeError(Code::kFindings, "exact-linear", "linear '{}' was not written as '{}': {}", Escape(linear.name), Escape(linear.layout), status.error().message);
}

Status RunStrip(Strip* strip, const RunOptions& options) {
  const LinearTask& task = *strip->task;
  std::vector<LinearTiles> tiles = *strip->prepared;
  // A side may end before the others do.
  const auto inside = [](uint64_t first, uint64_t count, uint64_t all) { return first >= all ? 0 : std::min(count, all - first); };
  std::vector<bool> there;
  for (size_t i = 0; i < tiles.size(); ++i) {
    const uint64_t outputs = inside(strip->first_output, strip->outputs, tiles[i].out_features());
    there.push_back(outputs > 0);
    if (outputs > 0) QC_TRY(Blame(tiles[i].ReadStrip(strip->first_output, outputs), task, i));
  }
  std::unique_ptr<TileCheck> check = task.check ? task.check(strip->first_output) : nullptr;
  if (check != nullptr) QC_TRY(Note(check->Strip(tiles[0], tiles[1]), strip, &check));
  std::vector<std::unique_ptr<StripWatch>> watches(tiles.size());
  for (size_t i = 0; i < tiles.size(); ++i) {
    if (task.sides[i].watch && there[i]) watches[i] = task.sides[i].watch(strip->first_output);
  }
  std::vector<float> panel(kProductInputs * kPanelOutputs);
  const uint64_t in_features = std::ranges::max(tiles, {}, &LinearTiles::in_features).in_features();
  const bool dense = std::ranges::any_of(tiles, &LinearTiles::dense);
  const bool whole = std::ranges::any_of(tiles, [](const LinearTiles& side) { return !side.view().inputs.empty(); });
  const uint64_t inputs = whole ? in_features : TileInputs(strip->outputs, dense);
  for (uint64_t k = 0; k < in_features; k += inputs) {
    if (options.check_stop) QC_TRY(options.check_stop());
    for (size_t i = 0; i < tiles.size(); ++i) {
      const uint64_t count = inside(k, inputs, tiles[i].in_features());
      if (!there[i] || count == 0) continue;
      QC_TRY(Blame(tiles[i].ReadTile(k, count), task, i));
      if (watches[i] != nullptr) watches[i]->Tile(tiles[i]);
      RunPanels(tiles[i], task.sides[i], watches[i].get(), panel.data());
    }
    if (check != nullptr) QC_TRY(Note(check->Tile(tiles[0], tiles[1]), strip, &check));
    if (options.progress) options.progress(StoredBytes(tiles.back()));
  }
  for (const std::unique_ptr<StripWatch>& watch : watches) {
    if (watch != nullptr) watch->End();
  }
  return {};
}

}  // namespace

Status RunLinears(std::vector<LinearTask>* tasks, const RunOptions& options) {
  std::vector<std::vector<LinearTiles>> prepared(tasks->size());
  QC_TRY(RunParallel(tasks->size(), options.jobs, [&](size_t i) -> Status {
    for (const LinearTask::Side& side : (*tasks)[i].sides) {
      prepared[i].emplace_back(side.linear, side.view);
      QC_TRY(Blame(prepared[i].back().Prepare(), (*tasks)[i], prepared[i].size() - 1));
    }
    return {};
  }));
  std::vector<Strip> strips;
  for (size_t i = 0; i < tasks->size(); ++i) {
    const std::vector<LinearTiles>& sides = prepared[i];
    const uint64_t out_features = std::ranges::max(sides, {}, &LinearTiles::out_features).out_features();
    uint64_t groups = 1;
    for (const LinearTiles& side : sides) groups = std::max(groups, side.groups());
    const bool whole = std::ranges::any_of(sides, [](const LinearTiles& side) { return !side.view().outputs.empty(); });
    const uint64_t outputs = whole ? out_features : StripOutputs(groups);
    for (uint64_t first = 0; first < out_features; first += outputs) {
      if ((*tasks)[i].begin_strip) (*tasks)[i].begin_strip(first);
      strips.push_back({&(*tasks)[i], &sides, first, std::min(outputs, out_features - first), {}});
    }
  }
  QC_TRY(RunParallel(strips.size(), options.jobs, [&](size_t i) { return RunStrip(&strips[i], options); }));
  for (Strip& strip : strips) {
    if (strip.mismatch.has_value() && !strip.task->mismatch.has_value()) strip.task->mismatch = std::move(strip.mismatch);
  }
  return {};
}

}  // namespace q2c
