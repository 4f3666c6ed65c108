#include "convert/zoo_find.h"

#include <algorithm>
#include <map>
#include <set>

#include "convert/execute.h"
#include "convert/zoo_process.h"
#include "formats/base/hash.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr std::string_view kEnds = "ends:";
constexpr std::string_view kWhole = "whole:";
constexpr int kMaxDepth = 64;
constexpr std::string_view kWeights[] = {".safetensors", ".gguf", ".bin", ".pt", ".pth"};
// What a model is expected to take: measured on 2 cores with the default verification (zoo.md).
constexpr double kBytesPerSecond = 150e6;
constexpr double kSecondsPerModel = 0.05;

bool IsPartOfCheckpoint(const DirEntry& entry) {
  if (entry.kind != FileKind::kRegular && entry.kind != FileKind::kLink) return false;
  return entry.name == kConfigName || entry.name == kIndexName || std::ranges::any_of(kWeights, [&](std::string_view ending) { return entry.name.ends_with(ending); });
}

struct Walk {
  explicit Walk(const FindOptions& how) : options(how) {}

  const FindOptions& options;
  std::vector<std::string> found;   // paths below the root
  std::vector<Error> unreadable;    // with the path in the message
  std::vector<std::string> unread;  // their paths
  size_t links = 0;

  bool Wanted(const std::string& path) const {
    const auto matches = [&](const std::string& glob) { return GlobMatch(glob, path); };
    return (options.include.empty() || std::ranges::any_of(options.include, matches)) && std::ranges::none_of(options.exclude, matches);
  }

  Status Into(const Dir& dir, const std::string& path, int depth) {
    QC_TRY(CheckStop(options.stop));
    const Result<std::vector<DirEntry>> entries = dir.List();
    if (!entries.ok()) return Unread(path, entries.error());
    if (std::ranges::any_of(entries.value(), IsPartOfCheckpoint)) {
      if (path.empty()) return Usage("zoo-root", "'{}' is a checkpoint itself; give it to qwen2-convert, or name the folder above it", Escape(dir.path()));
      if (Wanted(path)) found.push_back(path);
    }
    const auto holds = [&](std::string_view name) { return std::ranges::find(entries.value(), name, &DirEntry::name) != entries.value().end(); };
    const bool hub = holds("blobs") && holds("snapshots");  // a repository in a Hub cache
    for (const DirEntry& entry : entries.value()) {
      if (entry.name.starts_with('.') || (hub && entry.name != "snapshots")) continue;
      const std::string below = path.empty() ? entry.name : path + "/" + entry.name;
      if (entry.kind == FileKind::kLink) {
        // Only a link to a folder is worth a word; those to files belong to checkpoints.
        links += Dir::Open(dir.PathOf(entry.name)).ok() ? 1 : 0;
        continue;
      }
      if (entry.kind != FileKind::kFolder) continue;
      if (!IsUtf8(entry.name) || !IsPlainFileName(entry.name)) {
        std::string shown = Escape(below);
        std::ranges::replace(shown, '\\', '?');
        QC_TRY(Unread(shown, Refused("zoo-name", "folder '{}': its name is no UTF-8 or holds a backslash; rename it", Escape(below))));
        continue;
      }
      if (depth == kMaxDepth) return Unread(below, MakeError(Code::kRefused, "zoo-depth", "folder '{}' lies more than {} levels deep", Escape(below), kMaxDepth));
      const Result<Dir> child = dir.OpenDir(entry.name);
      if (!child.ok()) {
        QC_TRY(Unread(below, child.error()));
        continue;
      }
      QC_TRY(Into(child.value(), below, depth + 1));
    }
    return {};
  }

  Status Unread(const std::string& path, const Error& error) {
    if (path.empty()) return error;
    if (!Wanted(path)) return {};
    unread.push_back(path);
    unreadable.push_back(error);
    return {};
  }
};

// The line of one model. Runs in a child, since what it reads is hostile.
std::string LineOf(const std::string& root, const std::string& out, const std::string& path, const FindOptions& options) {
  ZooModel model;
  model.in = model.out = path;
  model.options = options.options;
  const auto plan = [&]() -> Status {
    QC_ASSIGN(const JobOptions job, ZooJob(JoinPath(root, path), JoinPath(out, path), options.options));
    QC_ASSIGN(const Location location, Location::Open(job.in, job.links));
    QC_ASSIGN(const std::vector<DirEntry> entries, location.dir().List());
    for (const DirEntry& entry : entries) {
      if (entry.kind == FileKind::kFolder) continue;
      const Result<InputFile> file = location.OpenMember(entry.name);
      if (file.ok()) model.bytes += file.value().bytes();
    }
    const Result<std::string> identity = IdentityOf(job.in, job.links, options.whole_files);
    if (identity.ok()) model.identity = identity.value();
    QC_ASSIGN(const PlannedJob planned, PlanJob(job));
    QC_TRY(Status(identity.ok() ? Status() : Status(identity.error())));
    model.generic = planned.model->architecture.IsGeneric();
    model.output_bytes = planned.plan.OutputBytes();
    model.seconds = kSecondsPerModel + static_cast<double>(model.bytes + model.output_bytes) / kBytesPerSecond;
    return {};
  };
  if (Status planned = plan(); !planned.ok()) model.refused = std::move(planned).TakeError();
  return PlanLine(model);
}

ZooModel Refusal(const std::string& path, const FindOptions& options, Error error) {
  ZooModel model;
  model.in = model.out = path;
  model.options = options.options;
  model.refused = std::move(error);
  return model;
}

// All models, each by a child of its own.
Result<std::vector<ZooModel>> PlanAll(const std::string& root, const std::string& out, const std::vector<std::string>& paths, const FindOptions& options) {
  std::vector<ZooModel> models(paths.size());
  std::map<uint64_t, size_t> at_work;  // child: index
  Children children;
  size_t next = 0;
  size_t done = 0;
  while (done < paths.size()) {
    QC_TRY(CheckStop(options.stop));
    while (next < paths.size() && children.count() < options.jobs) {
      QC_ASSIGN(const uint64_t child, children.Start([&] { return LineOf(root, out, paths[next], options); }));
      at_work[child] = next++;
    }
    constexpr int kPatience = 200;  // ms, until the next look at the signals
    for (const Children::Ended& ended : children.Wait(kPatience)) {
      const size_t index = at_work[ended.id];
      std::string line = ended.text;
      if (!line.empty()) line.pop_back();  // the newline
      Result<ZooModel> model = line.empty() ? Result<ZooModel>(Internal("planning ended by signal {}; please report it", ended.signal)) : ParsePlanLine(line);
      models[index] = model.ok() ? std::move(model).value() : Refusal(paths[index], options, std::move(model).TakeError());
      ++done;
      if (options.progress) options.progress(done, paths.size());
    }
  }
  return models;
}

void AddNotes(const Walk& walk, const Dir& home, FoundZoo* zoo) {
  if (walk.links > 0) zoo->notes.push_back(fmt::format("{} links to folders were not followed", walk.links));
  std::map<std::string, size_t> identities;
  size_t copies = 0;
  size_t generic = 0;
  uint64_t needed = 0;
  for (const ZooModel& model : zoo->plan.models) {
    if (model.refused.has_value()) continue;
    copies += identities[model.identity]++ > 0 ? 1 : 0;
    generic += model.generic ? 1 : 0;
    needed += model.output_bytes;
  }
  if (copies > 0) zoo->notes.push_back(fmt::format("{} models are equal to another one; each is written", copies));
  if (generic > 0) zoo->notes.push_back(fmt::format("{} models are of no known architecture and would be taken as they are", generic));
  const Result<uint64_t> room = FreeBytes(home);
  needed += needed / 100;
  if (room.ok() && room.value() < needed) {
    zoo->notes.push_back(fmt::format("warning: the outputs need {}, but only {} are free at '{}'; a run would stop when it is full, and go on when there is room", HumanBytes(needed), HumanBytes(room.value()), Escape(home.path())));
  }
}

// The nearest folder above a path that is there.
Result<Dir> NearestFolder(std::string path) {
  for (;;) {
    Result<Dir> dir = Dir::Open(path);
    if (dir.ok() || path == "/") return dir;
    path = ParentPath(path);
  }
}

}  // namespace

Result<std::string> IdentityOf(const std::string& folder, Links links, bool whole_files) {
  QC_ASSIGN(const Location location, Location::Open(folder, links));
  QC_ASSIGN(const std::vector<DirEntry> entries, location.dir().List());
  constexpr uint64_t kEnd = 1 << 16;
  constexpr uint64_t kPiece = 1 << 20;
  Xxh3 digest;
  std::string buffer;
  const auto add = [&](const InputFile& file, uint64_t begin, uint64_t end) -> Status {
    for (uint64_t at = begin; at < end; at += buffer.size()) {
      buffer.resize(std::min(kPiece, end - at));
      QC_TRY(file.ReadAt(at, std::as_writable_bytes(std::span(buffer))));
      digest.Update(AsBytes(buffer));
    }
    return {};
  };
  for (const DirEntry& entry : entries) {
    if (entry.kind == FileKind::kFolder) continue;
    QC_ASSIGN(const InputFile file, location.OpenMember(entry.name));
    digest.Update(AsBytes(fmt::format("{} {} {}\n", entry.name.size(), entry.name, file.bytes())));
    const uint64_t head = whole_files ? file.bytes() : std::min(kEnd, file.bytes());
    QC_TRY(add(file, 0, head));
    QC_TRY(add(file, std::max(head, file.bytes() - std::min(kEnd, file.bytes())), file.bytes()));
    QC_TRY(file.CheckUnchanged());
  }
  return fmt::format("{}{}", whole_files ? kWhole : kEnds, digest.Hex());
}

Result<std::string> IdentityLike(const std::string& identity, const std::string& folder, Links links) {
  if (identity.starts_with(kWhole)) return IdentityOf(folder, links, true);
  if (identity.starts_with(kEnds)) return IdentityOf(folder, links, false);
  return Malformed("zoo-plan", "the identity '{}' is of no known kind", Escape(identity));
}

Result<FoundZoo> FindZoo(const std::string& root, const std::string& out, const FindOptions& options) {
  FoundZoo zoo;
  zoo.plan.root = AbsolutePath(root);
  zoo.plan.out = AbsolutePath(out);
  QC_ASSIGN(const Dir dir, Dir::Open(zoo.plan.root));
  QC_TRY(CheckApart(zoo.plan.root, zoo.plan.out));
  {
    QC_ASSIGN(const JobOptions job, ZooJob("in", "out", options.options));  // what is wrong with the options is wrong for all
    for (const std::string& target : job.targets) {
      if (const Result<Target> known = FindTarget(target); !known.ok()) return known.error();
    }
  }
  Walk walk(options);
  QC_TRY(walk.Into(dir, "", 0));

  // A checkpoint within another would have its output within that of the other, which must appear in one step.
  const std::set<std::string> all(walk.found.begin(), walk.found.end());
  std::vector<std::string> paths;
  for (const std::string& path : walk.found) {
    std::string outer;
    for (size_t slash = path.find('/'); slash != std::string::npos && outer.empty(); slash = path.find('/', slash + 1)) {
      if (all.contains(path.substr(0, slash))) outer = path.substr(0, slash);
    }
    if (outer.empty()) paths.push_back(path);
    else zoo.plan.models.push_back(Refusal(path, options, Refused("zoo-nested", "'{}' lies in the checkpoint '{}'; convert it by itself, or leave one of the two out with --exclude", Escape(path), Escape(outer))));
  }
  for (size_t i = 0; i < walk.unread.size(); ++i) zoo.plan.models.push_back(Refusal(walk.unread[i], options, walk.unreadable[i]));
  QC_ASSIGN(std::vector<ZooModel> models, PlanAll(zoo.plan.root, zoo.plan.out, paths, options));
  std::ranges::move(models, std::back_inserter(zoo.plan.models));
  std::ranges::sort(zoo.plan.models, [](const ZooModel& a, const ZooModel& b) { return a.bytes != b.bytes ? a.bytes > b.bytes : a.in < b.in; });
  QC_ASSIGN(const Dir home, NearestFolder(zoo.plan.out));
  AddNotes(walk, home, &zoo);
  return zoo;
}

}  // namespace q2c
