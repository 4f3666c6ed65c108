#include "formats/location.h"

#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr std::string_view kHubScheme = "hf://";
constexpr std::string_view kSnapshots = "snapshots";
// models--ORG--NAME is the folder of a repository in the cache.
constexpr std::string_view kModels = "models--";
constexpr std::string_view kBehindOrg = "--";
constexpr const char* kMainRevision = "main";

// In the order of huggingface_hub, with the older name that it still reads.
std::string HubCache() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (std::string cache = EnvironmentVariable(name); !cache.empty()) return cache;
  }
  if (const std::string home = EnvironmentVariable("HF_HOME"); !home.empty()) return JoinPath(home, "hub");
  if (const std::string cache = EnvironmentVariable("XDG_CACHE_HOME"); !cache.empty()) return JoinPath(cache, "huggingface/hub");
  return JoinPath(HomeFolder(), ".cache/huggingface/hub");
}

// A repository's folder in the cache -> the folder of a revision's snapshot. `asked`: as the user named it.
Result<std::string> Snapshot(const std::string& repo_path, const std::string& revision, std::string_view asked) {
  // A branch or tag is a small file that holds a commit; a commit names its snapshot itself.
  std::string commit = revision;
  const Result<Dir> refs = Dir::Open(JoinPath(repo_path, "refs"));
  if (refs.ok()) {
    const Result<InputFile> ref = InputFile::Open(refs.value(), revision);
    if (ref.ok()) {
      constexpr uint64_t kMaxRef = 256;
      QC_ASSIGN(commit, ref.value().ReadAll(kMaxRef));
      while (!commit.empty() && (commit.back() == '\n' || commit.back() == ' ')) commit.pop_back();
    }
  }
  const std::string snapshot = JoinPath(JoinPath(repo_path, std::string(kSnapshots)), commit);
  if (!IsPlainFileName(commit) || !Dir::Open(snapshot).ok()) {
    return Usage("hub-missing", "'{}': revision '{}' is not in the Hub cache '{}'; download it first, or give a folder in its {}/", Escape(asked), Escape(revision), Escape(repo_path), kSnapshots);
  }
  return snapshot;
}

// hf://org/name[@revision] -> the snapshot's folder in the cache.
Result<std::string> ResolveHubName(std::string_view name) {
  const std::string_view whole = name;
  name.remove_prefix(kHubScheme.size());
  std::string revision = kMainRevision;
  if (const size_t at = name.find('@'); at != std::string_view::npos) {
    revision = name.substr(at + 1);
    name = name.substr(0, at);
  }
  const size_t slash = name.find('/');
  const std::string org(name.substr(0, slash));
  const std::string model(slash == std::string_view::npos ? "" : name.substr(slash + 1));
  if (!IsPlainFileName(org) || !IsPlainFileName(model) || revision.empty() || revision.find("..") != std::string::npos || revision.front() == '/') {
    return Usage("hub-name", "'{}' is no Hub name; expected hf://org/name or hf://org/name@revision", Escape(whole));
  }
  const std::string repo_path = JoinPath(HubCache(), fmt::format("{}{}{}{}", kModels, org, kBehindOrg, model));
  const Result<Dir> repo = Dir::Open(repo_path);
  if (!repo.ok()) {
    return Usage("hub-missing", "'{}' is not in the Hub cache: no folder '{}'; download it first, or set HF_HUB_CACHE", Escape(whole), Escape(repo_path));
  }
  return Snapshot(repo_path, revision, whole);
}

}  // namespace

Result<Location> Location::Open(const std::string& path, Links links) {
  std::string folder = path;
  if (path.starts_with(kHubScheme)) {
    QC_ASSIGN(folder, ResolveHubName(path));
  } else if (BaseName(AbsolutePath(path)).starts_with(kModels) && Dir::Open(JoinPath(path, std::string(kSnapshots))).ok()) {
    QC_ASSIGN(folder, Snapshot(path, kMainRevision, path));
  }
  QC_ASSIGN(Dir dir, Dir::Open(folder));
  std::optional<Dir> blobs;
  const std::string real = RealPath(folder);
  if (BaseName(ParentPath(real)) == kSnapshots) {
    Result<Dir> opened = Dir::Open(JoinPath(ParentPath(ParentPath(real)), "blobs"), Links::kRefuse);
    if (opened.ok()) blobs = std::move(opened).value();
  }
  return Location(std::move(dir), std::move(blobs), links);
}

std::string Location::HubName() const {
  const std::string snapshots = ParentPath(AbsolutePath(dir_.path()));
  const std::string repository = BaseName(ParentPath(snapshots));
  if (BaseName(snapshots) != kSnapshots || !repository.starts_with(kModels)) return "";
  const std::string name = repository.substr(kModels.size());
  const size_t cut = name.find(kBehindOrg);
  return cut == std::string::npos ? "" : name.substr(0, cut) + "/" + name.substr(cut + kBehindOrg.size());
}

Result<InputFile> Location::OpenMember(const std::string& name) const {
  if (links_ == Links::kFollow || !blobs_.has_value()) return InputFile::Open(dir_, name, links_);
  const Result<FileKind> kind = dir_.KindOf(name);
  if (!kind.ok() || kind.value() != FileKind::kLink) return InputFile::Open(dir_, name);
  QC_ASSIGN(const std::string link, dir_.ReadLink(name));
  const std::string real_dir = RealPath(dir_.path());
  const std::string target = AbsolutePath(link.starts_with('/') ? link : JoinPath(real_dir, link));
  if (ParentPath(target) != blobs_->path() || !IsPlainFileName(BaseName(target))) {
    return Malformed("link-outside", "file '{}' is a link to '{}', outside the blobs/ of its Hub repository; give --follow-links if you trust it", Escape(dir_.PathOf(name)), Escape(link));
  }
  Result<InputFile> file = InputFile::Open(*blobs_, BaseName(target));
  if (!file.ok()) return std::move(file).TakeError().Within(fmt::format("file '{}'", Escape(dir_.PathOf(name))));
  // Nobody knows a blob by its digest.
  return std::move(file).value().Called(dir_.PathOf(name));
}

}  // namespace q2c
