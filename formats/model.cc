#include "formats/model.h"

#include <algorithm>
#include <cmath>

#include "formats/base/half.h"
#include "formats/base/parallel.h"
#include "formats/base/text.h"
#include "formats/generic_architecture.h"
#include "formats/model_data.h"

namespace q2c {
namespace {

// A type in which floats are stored, blocks included.
bool IsFloat(Dtype dtype) { return IsFloat16Or32(dtype) || InfoOf(dtype).block > 1; }

// An architecture that is not known; what it consists of shows when the settings of the quantisation are read.
Status TakeAsItIs(const Json& config, const std::string& model_type, Model* model) {
  const Json* text = config.Find("text_config");
  if (text != nullptr && text->Find("quantization_config") != nullptr) {
    return Refused("architecture", "config.json: model_type '{}' is not known, and its quantization_config lies in text_config, where --arch=generic cannot rewrite it; move it to the top", Escape(model_type));
  }
  model->architecture = GenericArchitecture(model_type);
  model->config = config;
  const Json* classes = config.Find("architectures");
  const bool named = classes != nullptr && classes->is_array() && !classes->items().empty() && classes->items()[0].is_string();
  model->class_name = named ? classes->items()[0].text() : model_type;
  model->notes.push_back({"arch-generic", fmt::format("model_type '{}' is not known, so the model is taken as it is (--arch=generic): no tensor is renamed, no bias is judged, of config.json only dtype, local paths and the quantisation are touched, and there is no forward pass", Escape(model_type))});
  return {};
}

// Class and family from config.json.
Status FindFamily(const ModelOptions& options, Model* model) {
  const std::optional<Json>& config = model->checkpoint->config();
  if (!config.has_value()) {
    return Malformed("config-missing", "folder '{}' has no config.json; take it from the original model", Escape(model->checkpoint->path()));
  }
  const Json* type = config->Find("model_type");
  if (type == nullptr || !type->is_string()) return Malformed("config-type", "config.json: model_type is missing");
  const std::vector<std::string> known = KnownArchitectures();
  if (options.generic && std::ranges::find(known, type->text()) == known.end()) return TakeAsItIs(*config, type->text(), model);
  QC_ASSIGN(model->architecture, FindArchitecture(type->text()));
  QC_ASSIGN(TranslatedConfig translated, model->architecture.Translate(*config));
  model->config = std::move(translated.config);
  model->config_changes = std::move(translated.changes);
  for (auto& [id, message] : translated.notes) model->notes.push_back({std::move(id), std::move(message)});
  const Json* classes = model->config.Find("architectures");
  const bool named = classes != nullptr && classes->is_array() && !classes->items().empty() && classes->items()[0].is_string();
  model->class_name = named ? classes->items()[0].text() : model->architecture.Classes().front();
  QC_ASSIGN(model->skeleton, model->architecture.Expand(model->config, model->class_name));
  const Json* tie = model->config.Find("tie_word_embeddings");
  model->tied = tie != nullptr && tie->AsBool().value_or(false);
  return {};
}

// Puts tensors where they belong. Parts of a linear mostly follow each other, so the last one is remembered.
class Assigner {
 public:
  explicit Assigner(Model* model) : model_(model) {}

  // The tensor that has this place already, if any; then nothing is done.
  std::optional<TensorIndex> Assign(TensorIndex i, const Place& place) {
    if (model_->skeleton.tensors.contains(place.name)) return AssignOther(i, place);
    const size_t dot = place.name.rfind('.');  // every name of a part has one
    const std::string_view linear = std::string_view(place.name).substr(0, dot);
    if (last_ == nullptr || last_->first != linear) {
      last_ = nullptr;
      const Skeleton& skeleton = model_->skeleton;
      const auto expected = skeleton.linears.find(linear);
      if (expected == skeleton.linears.end()) return AssignOther(i, place);
      last_ = &*model_->linears.try_emplace(expected->first).first;
      last_->second.expected = expected->second;
    }
    return Add(i, place, place.name.substr(dot + 1), &last_->second);
  }

 private:
  static std::optional<TensorIndex> Add(TensorIndex i, const Place& place, const std::string& part, Linear* linear) {
    const auto [other, fresh] = linear->parts.emplace(part, i);
    if (!fresh) return other->second;
    linear->rows = place.rows;
    return std::nullopt;
  }

  // Of no linear; but an embedding in the parts of a layout is treated as the linear that it is stored as.
  std::optional<TensorIndex> AssignOther(TensorIndex i, const Place& place) {
    const auto [name, part] = SplitPart(place.name);
    const Skeleton& skeleton = model_->skeleton;
    const bool packed = model_->info(i).dtype == Dtype::kU32 && part == "weight" && skeleton.IsMatrix(place.name);
    // The name may be taken in the other form.
    if (const auto other = model_->tensors.find(place.name); other != model_->tensors.end()) return other->second;
    if (const auto other = model_->linears.find(name); other != model_->linears.end() && other->second.Part(part).has_value()) return other->second.Part(part);
    if (skeleton.tensors.contains(place.name) && !packed) {
      model_->tensors.emplace(place.name, i);
      return std::nullopt;
    }
    const Shape& shape = skeleton.tensors.find(name + ".weight")->second.shape;
    Linear& entry = model_->linears[name];
    entry.expected = {name, shape[1], shape[0], false, false, false, ""};
    return Add(i, place, part, &entry);
  }

  Model* model_;
  std::pair<const std::string, Linear>* last_ = nullptr;
};

// Gives every tensor of the file its place.
Status AssignTensors(const ModelOptions& options, Model* model) {
  const std::vector<TensorInfo>& tensors = model->checkpoint->tensors();
  model->places.resize(tensors.size());
  Assigner assigner(model);
  std::vector<std::string> unknown;
  for (TensorIndex i = 0; i < tensors.size(); ++i) {
    const std::string& name = tensors[i].name;
    const auto glob = std::ranges::find_if(options.drop, [&](const std::string& pattern) { return GlobMatch(pattern, name); });
    if (glob != options.drop.end()) {
      model->dropped.emplace_back(i, *glob);
      continue;
    }
    if (model->architecture.IsDerived(name)) {
      model->derived.push_back(i);
      continue;
    }
    model->places[i] = model->architecture.Places(model->skeleton, name);
    if (options.text_only && !model->places[i].empty() && model->architecture.IsVision(model->places[i].front().name)) {
      model->places[i].clear();
      model->vision.push_back(i);
      continue;
    }
    if (model->places[i].empty()) unknown.push_back(name);
    for (const Place& place : model->places[i]) {
      if (const std::optional<TensorIndex> other = assigner.Assign(i, place)) {
        QC_TRY(options.Keep(Malformed("tensor-twice", "tensors '{}' and '{}' both mean '{}'", Escape(tensors[*other].name), Escape(name), Escape(place.name))));
      }
    }
  }
  if (!unknown.empty()) {
    std::vector<const TensorInfo*> parts;
    for (const TensorInfo& tensor : tensors) parts.push_back(&tensor);
    if (const auto foreign = ForeignQuantisation("", parts)) return options.Keep(Refused("layout", "tensor '{}': {}", Escape(unknown.front()), *foreign));
    return options.Keep(Refused("tensor-unknown", "{} tensors that {} does not know: {}; leave them out with --drop=GLOB if they are of no use", unknown.size(), model->class_name, QuoteSome(unknown, 8)));
  }
  return {};
}

// From here on the model is one without a vision tower.
void LeaveOutVision(Model* model) {
  model->text_only = true;
  std::erase_if(model->skeleton.tensors, [&](const auto& entry) { return model->architecture.IsVision(entry.first); });
  std::erase_if(model->skeleton.linears, [&](const auto& entry) { return model->architecture.IsVision(entry.first); });
}

Error Missing(const Model& model, const std::string& name, std::string what) {
  for (const auto& [i, glob] : model.dropped) {
    const std::vector<Place> places = model.architecture.Places(model.skeleton, model.info(i).name);
    if (std::ranges::find(places, name, &Place::name) == places.end()) continue;
    return Refused("drop-needed", "--drop={} matches tensor '{}', which {} cannot do without", Escape(glob), Escape(name), model.class_name);
  }
  return Malformed("tensor-missing", "{}; complete the download or take the original checkpoint", what);
}

Status CheckShapes(const ModelOptions& options, const Model& model) {
  for (const auto& [name, expected] : model.skeleton.tensors) {
    const auto found = model.tensors.find(name);
    if (found == model.tensors.end() && model.linears.contains(SplitPart(name).first)) continue;  // stored in the parts of a layout
    if (found == model.tensors.end()) {
      QC_TRY(options.Keep(Missing(model, name, fmt::format("tensor '{}' is missing", Escape(name)))));
      continue;
    }
    const TensorInfo& info = model.info(found->second);
    if (expected.as_it_is) continue;
    if (info.shape != expected.shape) {
      QC_TRY(options.Keep(Malformed("tensor-shape", "tensor '{}': shape {}, expected {} by config.json", Escape(name), ShapeText(info.shape), ShapeText(expected.shape))));
    }
    if (!IsFloat(info.dtype)) QC_TRY(options.Keep(Malformed("tensor-dtype", "tensor '{}': dtype {}, expected F16, BF16 or F32", Escape(name), NameOf(info.dtype))));
  }
  for (const auto& [name, expected] : model.skeleton.linears) {
    if (model.linears.contains(name)) continue;
    if (!expected.tied_to.empty() && model.tied) continue;
    QC_TRY(options.Keep(Missing(model, name + ".weight", fmt::format("tensor '{}.weight' (or .qweight and its kin) is missing", Escape(name)))));
  }
  return {};
}

// Layout and shape of one linear; the convention of its zeros is settled later.
Status Recognise(const Model& model, const std::string& name, Linear* linear) {
  std::vector<const TensorInfo*> parts;
  for (const auto& [suffix, index] : linear->parts) parts.push_back(&model.info(index));
  LayoutHints hints;
  if (model.quant.has_value()) hints = {model.quant->quant_method, model.quant->checkpoint_format, model.quant->bits, model.quant->group_size};
  if (const auto bias = linear->Part("bias"); bias.has_value()) {
    const TensorInfo& info = model.info(*bias);
    if (info.shape != Shape{linear->StoredOutputs()}) {
      return Malformed("tensor-shape", "tensor '{}': shape {}, expected [{}], one for each output", Escape(info.name), ShapeText(info.shape), linear->StoredOutputs());
    }
    if (!IsFloat16Or32(info.dtype)) return Malformed("tensor-dtype", "tensor '{}': dtype {}, expected F16, BF16 or F32", Escape(info.name), NameOf(info.dtype));
  }
  const auto weight = linear->Part("weight");
  // A head in blocks is a float tensor that its file stores so, like the embedding it may be tied to.
  const bool float_head = weight.has_value() && InfoOf(model.info(*weight).dtype).block > 1 && !linear->expected.in_block;
  for (const Layout& layout : float_head ? std::span<const Layout>() : Layouts()) {
    QC_ASSIGN(const std::optional<QuantShape> shape, layout.detect(name, linear->expected.in_features, linear->StoredOutputs(), parts, hints));
    if (!shape.has_value()) continue;
    linear->layout = &layout;
    linear->traits.shape = *shape;
    linear->traits.shape.out_features = linear->expected.out_features;
    break;
  }
  if (linear->layout == nullptr) {
    if (const auto foreign = ForeignQuantisation(weight.has_value() ? "" : hints.method, parts)) return Refused("layout", "linear '{}': {}", Escape(name), *foreign);
    if (!weight.has_value()) {
      if (!linear->expected.tied_to.empty() && model.tied) return {};
      return Malformed("tensor-missing", "linear '{}' has no weight and no parts of a quantised one", Escape(name));
    }
    const TensorInfo& info = model.info(*weight);
    const Shape expected = {linear->StoredOutputs(), linear->expected.in_features};
    const bool row = linear->expected.out_features == 1 && info.shape == Shape{linear->expected.in_features};  // GGUF drops the dimension
    if (info.shape != expected && !row) {
      return Malformed("tensor-shape", "tensor '{}': shape {}, expected {} by config.json", Escape(info.name), ShapeText(info.shape), ShapeText(expected));
    }
    if (!IsFloat(info.dtype)) return Malformed("tensor-dtype", "tensor '{}': dtype {}, expected F16, BF16 or F32", Escape(info.name), NameOf(info.dtype));
  } else if (weight.has_value() && linear->layout->Part("weight") == nullptr) {
    return Malformed("quant-part", "linear '{}' has both weight and qweight; one of them is stale", Escape(name));
  }
  return {};
}

Status CheckAgainstConfig(const Model& model, const std::string& name, Linear* linear) {
  if (!model.quant.has_value() || !linear->quantised()) return {};
  const QuantConfig& config = *model.quant;
  QuantShape& shape = linear->traits.shape;
  if (config.bits.has_value() && *config.bits != shape.bits && !config.per_module) {
    return Malformed("quant-bits", "linear '{}' is stored with {} bits, {} says {}", Escape(name), shape.bits, config.where, *config.bits);
  }
  if (!config.group_size.has_value()) return {};
  const uint64_t size = *config.group_size < 0 ? shape.in_features : std::min(static_cast<uint64_t>(*config.group_size), shape.in_features);
  if (CeilDiv(shape.in_features, size) == shape.groups) {
    shape.group_size = size;
  } else if (!config.per_module) {
    return Malformed("quant-group-size", "linear '{}' has {} groups for {} inputs, {} says group_size {}, which makes {}", Escape(name), shape.groups, shape.in_features,
                     config.where, *config.group_size, CeilDiv(shape.in_features, size));
  }
  return {};
}

// Layout, shape and groups of every linear; one that is broken is left out of the model. Tells whether any is.
Result<bool> RecogniseAll(const ModelOptions& options, Model* model) {
  // Looked at side by side; what was seen is judged in the order of the names, whoever was first.
  struct Seen {
    Status layout;
    Status config;
    Status groups;
  };
  std::vector<std::pair<const std::string, Linear>*> all;
  for (auto& entry : model->linears) all.push_back(&entry);
  std::vector<Seen> seen(all.size());
  QC_TRY(RunParallel(all.size(), options.jobs, [&](size_t i) -> Status {
    auto& [name, linear] = *all[i];
    seen[i].layout = Recognise(*model, name, &linear);
    if (!seen[i].layout.ok()) return {};
    seen[i].config = CheckAgainstConfig(*model, name, &linear);
    if (linear.quantised()) seen[i].groups = ReadGroups(*model, name, &linear);
    return {};
  }));
  bool broken = false;
  for (size_t i = 0; i < all.size(); ++i) {
    QC_TRY(options.Keep(std::move(seen[i].config)));
    Status status = seen[i].layout.ok() ? std::move(seen[i].groups) : std::move(seen[i].layout);
    if (status.ok()) continue;
    QC_TRY(options.Keep(std::move(status)));
    model->linears.erase(all[i]->first);
    broken = true;
  }
  return broken;
}

// No config says how the linears are quantised. Blocks of GGUF say it themselves; so do the shapes of GPTQ, whose zero
// points are looked at anyway: GPTQ-for-LLaMa wrote no config at all.
Status InferSettings(const ModelOptions& options, Model* model) {
  const auto says_itself = [](const Linear& linear) {
    const QuantShape& shape = linear.traits.shape;
    return linear.layout->method == "gguf" || (linear.layout->method == "gptq" && shape.in_features % shape.groups == 0);
  };
  bool noted = false;
  for (const auto& [name, linear] : model->linears) {
    if (!linear.quantised()) continue;
    const QuantShape& shape = linear.traits.shape;
    const int64_t group_size = shape.groups == 1 ? -1 : static_cast<int64_t>(shape.group_size);
    // To convert it is enough that it can be known; as it is, no loader knows it.
    const bool defect = options.defects != nullptr && linear.layout->method != "gguf";
    if (defect || !says_itself(linear)) {
      return options.Keep(Malformed("quant-config-missing", "linear '{}' is quantised, but neither config.json nor quantize_config.json says how; if these are the right files, write quantize_config.json with what the tensors show: {{\"bits\": {}, \"group_size\": {}}}",
                                    Escape(name), shape.bits, group_size));
    }
    if (noted || linear.layout->method != "gptq") continue;
    model->notes.push_back({"quant-config-missing", fmt::format("neither config.json nor quantize_config.json says how the linears are quantised; the tensors do: '{}' has {} bits and group_size {}", Escape(name), shape.bits, group_size)});
    noted = true;
  }
  return {};
}

}  // namespace

std::optional<TensorIndex> Linear::Part(std::string_view suffix) const {
  const auto found = parts.find(suffix);
  if (found == parts.end()) return std::nullopt;
  return found->second;
}

std::string ClassText(const Model& model) {
  return Escape(model.class_name) + (model.architecture.IsGeneric() ? ", which is not known and taken as it is" : "");
}

bool Model::AnyQuantised() const {
  return std::ranges::any_of(linears, [](const auto& entry) { return entry.second.quantised(); });
}

Result<Model> UnderstandModel(const Checkpoint& checkpoint, const ModelOptions& options) {
  Model model;
  model.checkpoint = &checkpoint;
  QC_TRY(FindFamily(options, &model));
  bool quant_readable = true;
  if (Result<std::optional<QuantConfig>> quant = ReadQuantConfig(checkpoint); quant.ok()) {
    model.quant = std::move(quant).value();
  } else {
    QC_TRY(options.Keep(std::move(quant).TakeError()));
    quant_readable = false;
  }
  if (model.quant.has_value()) {
    if (const auto foreign = ForeignQuantisation(model.quant->quant_method, {})) {
      QC_TRY(options.Keep(Refused("layout", "{}: quant_method is '{}': {}", model.quant->where, Escape(model.quant->quant_method), *foreign)));
    }
  }
  if (model.architecture.IsGeneric()) {
    QC_ASSIGN(model.skeleton, GenericSkeleton(checkpoint, model.quant, options.drop));
  }
  QC_TRY(AssignTensors(options, &model));
  if (options.text_only) LeaveOutVision(&model);
  QC_TRY(CheckShapes(options, model));
  QC_ASSIGN(const bool broken, RecogniseAll(options, &model));
  if (broken && !model.AnyQuantised()) return model;  // it is not known whether any was
  if (model.quant.has_value() && !model.AnyQuantised() && !model.linears.empty()) {
    QC_TRY(options.Keep(Malformed("quant-config", "{} describes a quantised model, but no linear is quantised: there is only '{}.weight'; remove it or take the right files", model.quant->where, model.linears.begin()->first)));
  }
  if (!model.quant.has_value() && quant_readable && model.AnyQuantised()) QC_TRY(InferSettings(options, &model));
  QC_TRY(SettleZeros(options, &model));
  return model;
}

Result<QuantLinear> DecodeLinear(const Model& model, const Linear& linear, uint8_t components, const Tile& tile) {
  PartSource source;
  source.part = [&](std::string_view suffix) -> const TensorInfo* {
    const std::optional<TensorIndex> index = linear.Part(suffix);
    return index.has_value() ? &model.info(*index) : nullptr;
  };
  source.read = [&](const TensorInfo& part, uint64_t offset, MutableBytes out) { return model.checkpoint->Read(part, offset, out); };
  return DecodeTile(*linear.layout, linear.StoredShape(), source, components, {tile.first_input, tile.inputs, linear.rows.first + tile.first_output, tile.outputs});
}

Result<QuantLinear> DecodeLinear(const Model& model, const Linear& linear, uint8_t components) {
  const QuantShape& shape = linear.traits.shape;
  return DecodeLinear(model, linear, components, {0, shape.in_features, 0, shape.out_features});
}

Result<Magnitude> MeasureTensor(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  Magnitude magnitude;
  const uint64_t width = InfoOf(tensor.dtype).bits / 8;
  QC_TRY(checkpoint.Stream(tensor, [&](ByteView piece) -> Status {
    for (uint64_t i = 0; i + width <= piece.size(); i += width) {
      const std::byte* at = piece.data() + i;
      const float value = tensor.dtype == Dtype::kF32   ? Load<float>(at)
                          : tensor.dtype == Dtype::kF16 ? HalfToFloat(Load<uint16_t>(at))
                                                        : BfloatToFloat(Load<uint16_t>(at));
      if (value == 0) continue;
      ++magnitude.nonzero;
      magnitude.nan = magnitude.nan || std::isnan(value);
      magnitude.largest = std::max(magnitude.largest, std::isnan(value) ? INFINITY : std::abs(static_cast<double>(value)));
    }
    return {};
  }));
  return magnitude;
}

}  // namespace q2c
