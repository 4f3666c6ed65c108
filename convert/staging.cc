#include "convert/staging.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <vector>

#include "formats/base/text.h"

namespace q2c {
namespace {
const std::string kMark = ".qwen2-convert";
const std::string kLock = "lock";
const std::string kNew = "new";
const std::string kOld = "old";
const std::string kLast = "config.json";  // without it no loader takes the folder for a model

std::string RootName(const std::string& name, uint64_t attempt) { return fmt::format(".{}{}{}", name, kMark, attempt == 0 ? "" : fmt::format(".{}", attempt)); }

// Nothing, or the first difference of the two folders in words.
Result<std::string> Difference(const Dir& made, const Dir& there) {
  QC_ASSIGN(const std::vector<DirEntry> ours, made.List());
  QC_ASSIGN(const std::vector<DirEntry> theirs, there.List());
  for (size_t i = 0; i < std::max(ours.size(), theirs.size()); ++i) {
    if (i >= ours.size() || (i < theirs.size() && theirs[i].name < ours[i].name)) return fmt::format("'{}' does not belong there", Escape(theirs[i].name));
    if (i >= theirs.size() || theirs[i].name != ours[i].name) return fmt::format("'{}' is missing there", Escape(ours[i].name));
  }
  constexpr uint64_t kPiece = 1 << 20;
  std::vector<std::byte> a(kPiece);
  std::vector<std::byte> b(kPiece);
  for (const DirEntry& entry : ours) {
    QC_ASSIGN(const InputFile mine, InputFile::Open(made, entry.name));
    QC_ASSIGN(const InputFile other, InputFile::Open(there, entry.name));
    if (mine.bytes() != other.bytes()) return fmt::format("'{}' has {} bytes there, {} here", Escape(entry.name), other.bytes(), mine.bytes());
    for (uint64_t at = 0; at < mine.bytes(); at += kPiece) {
      const size_t count = std::min(kPiece, mine.bytes() - at);
      QC_TRY(mine.ReadAt(at, std::span(a).first(count)));
      QC_TRY(other.ReadAt(at, std::span(b).first(count)));
      if (!std::equal(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(count), b.begin())) return fmt::format("'{}' has other content", Escape(entry.name));
    }
  }
  return std::string();
}
}  // namespace

Staging::Staging(Staging&& other) noexcept
    : out_(std::move(other.out_)), name_(std::move(other.name_)), root_name_(std::move(other.root_name_)), exists_(other.exists_),
      replace_(other.replace_), in_place_(other.in_place_), keep_equal_(other.keep_equal_), product_(other.product_), found_equal_(other.found_equal_), active_(std::exchange(other.active_, false)), home_(std::move(other.home_)),
      root_(std::move(other.root_)), new_(std::move(other.new_)), lock_(std::move(other.lock_)) {}

Staging::~Staging() {
  if (active_) RemoveRoot();
}

Result<Staging> Staging::Begin(const std::string& out, const std::string& in, Overwrite overwrite, uint64_t attempt, Product product) {
  Staging staging;
  staging.product_ = product;
  staging.out_ = AbsolutePath(out);
  staging.name_ = BaseName(staging.out_);
  staging.root_name_ = RootName(staging.name_, attempt);
  staging.keep_equal_ = overwrite == Overwrite::kKeepEqual;
  QC_TRY(staging.CheckOut(in, overwrite));
  QC_TRY(staging.Lock());
  staging.active_ = true;
  QC_TRY(staging.Recover());
  QC_TRY(staging.root_->MakeDir(kNew));
  QC_ASSIGN(staging.new_, staging.root_->OpenDir(kNew));
  return staging;
}

Result<std::vector<Staging::Left>> Staging::FindLeft(const std::vector<std::string>& outs) {
  std::map<std::string, std::set<std::string>> names;  // by parent
  for (const std::string& out : outs) names[ParentPath(out)].insert(BaseName(out));
  std::vector<Left> left;
  for (const auto& [parent, here] : names) {
    const Result<Dir> dir = Dir::Open(parent);
    if (!dir.ok()) continue;  // nothing was ever made there
    QC_ASSIGN(const std::vector<DirEntry> entries, dir.value().List());
    for (const DirEntry& entry : entries) {
      const size_t end = entry.name.rfind(kMark);
      if (!entry.name.starts_with('.') || end == std::string::npos || !here.contains(entry.name.substr(1, end - 1))) continue;
      const std::string behind = entry.name.substr(end + kMark.size());
      uint64_t attempt = 0;
      const auto [stop, error] = std::from_chars(behind.data() + std::min<size_t>(1, behind.size()), behind.data() + behind.size(), attempt);
      if (!behind.empty() && (behind[0] != '.' || error != std::errc() || stop != behind.data() + behind.size())) continue;
      left.push_back({JoinPath(parent, entry.name.substr(1, end - 1)), attempt, JoinPath(parent, entry.name)});
    }
  }
  return left;
}

Status Staging::Clear(const std::string& out, uint64_t attempt) {
  Staging staging;
  staging.out_ = AbsolutePath(out);
  staging.name_ = BaseName(staging.out_);
  staging.root_name_ = RootName(staging.name_, attempt);
  QC_ASSIGN(staging.home_, Dir::Open(ParentPath(staging.out_)));
  QC_ASSIGN(const bool exists, staging.home_->Has(staging.root_name_));
  if (!exists) return {};
  QC_TRY(staging.Lock());
  QC_TRY(staging.Recover());
  staging.active_ = true;  // and so it is removed
  return {};
}

std::string Staging::Keep() {
  active_ = false;
  return new_->path();
}

Status Staging::CheckOut(const std::string& in, Overwrite overwrite) {
  if (!IsPlainFileName(name_)) return Usage("output-path", "output '{}' is nothing that could be created", Escape(out_));
  QC_ASSIGN(Dir parent, Dir::Open(ParentPath(out_)));
  const std::string real_in = RealPath(in);
  const std::string real_out = JoinPath(RealPath(parent.path()), name_);
  if (IsInside(real_out, real_in) || IsInside(real_in, real_out)) {
    return Usage("output-input", "output '{}' is, lies in or contains the input '{}'; choose another place", Escape(out_), Escape(in));
  }
  QC_ASSIGN(exists_, parent.Has(name_));
  if (!exists_) {
    home_ = std::move(parent);
    return {};
  }
  QC_ASSIGN(const FileKind kind, parent.KindOf(name_));
  if (kind == FileKind::kLink) return Usage("output-link", "output '{}' is a symbolic link; name the folder itself", Escape(out_));
  if (product_ == Product::kFile) {
    if (kind != FileKind::kRegular) return Usage("output-file", "output '{}' exists and is no file", Escape(out_));
    if (overwrite == Overwrite::kRefuse) return Usage("output-exists", "output '{}' exists; give --force to replace it", Escape(out_));
    replace_ = true;
    home_ = std::move(parent);
    return {};
  }
  if (kind != FileKind::kFolder) return Usage("output-file", "output '{}' exists and is no folder", Escape(out_));
  QC_ASSIGN(Dir existing, parent.OpenDir(name_));
  in_place_ = IsMountPoint(existing);
  const std::string inner_root = ".qwen2-convert";
  QC_ASSIGN(const std::vector<DirEntry> entries, existing.List());
  bool empty = true;
  for (const DirEntry& entry : entries) {
    const bool ours = in_place_ && (entry.name == inner_root || entry.name == "lost+found");
    empty = empty && ours;
  }
  if (!empty && in_place_) return Usage("output-exists", "output '{}' is a mount point and not empty, so it cannot be replaced in one step; empty it first", Escape(out_));
  if (!empty && overwrite == Overwrite::kRefuse) return Usage("output-exists", "output '{}' is not empty; give --force to replace it", Escape(out_));
  replace_ = !empty && overwrite == Overwrite::kReplace;
  if (in_place_) {
    root_name_ = inner_root;
    home_ = std::move(existing);
  } else {
    home_ = std::move(parent);
  }
  return {};
}

Status Staging::Lock() {
  // Another run may remove the root between our steps; then begin again.
  constexpr int kAttempts = 20;
  for (int attempt = 0;; ++attempt) {
    QC_ASSIGN(const bool exists, home_->Has(root_name_));
    if (!exists) {
      Status made = home_->MakeDir(root_name_);
      QC_ASSIGN(const bool there, home_->Has(root_name_));
      if (!made.ok() && !there) return made;
    }
    Result<Dir> root = home_->OpenDir(root_name_);
    if (root.ok()) {
      QC_ASSIGN(const std::vector<DirEntry> entries, root.value().List());
      for (const DirEntry& entry : entries) {
        if (entry.name != kLock && entry.name != kNew && entry.name != kOld) {
          return Usage("output-staging", "folder '{}' is needed for the work, but holds '{}', which is not ours; move it away", Escape(root.value().path()), Escape(entry.name));
        }
      }
      Result<FileLock> lock = FileLock::Take(root.value(), kLock);
      if (lock.ok()) {
        root_ = std::move(root).value();
        lock_ = std::move(lock).value();
        return {};
      }
      if (lock.error().code == Code::kTryAgain || attempt == kAttempts) return std::move(lock).TakeError();
    } else if (attempt == kAttempts) {
      return std::move(root).TakeError();
    }
  }
}

// Undoes what a killed run left behind.
Status Staging::Recover() {
  if (in_place_) {
    // Files that were already moved into place belong to an output without its config.json.
    return root_->RemoveTree(kNew);
  }
  QC_ASSIGN(const bool has_old, root_->Has(kOld));
  if (has_old) {
    QC_ASSIGN(const bool has_out, home_->Has(name_));
    if (has_out) {
      QC_TRY(root_->RemoveTree(kOld));  // the replacement had come through
    } else {
      QC_TRY(root_->Rename(kOld, *home_, name_, Dir::Move::kNoReplace));
      QC_TRY(home_->Sync());
      return MakeError(Code::kTryAgain, "recovered", "an earlier run was stopped while it replaced '{}'; the old folder is back in its place: run again", Escape(out_));
    }
  }
  return root_->RemoveTree(kNew);
}

Status Staging::Commit() {
  QC_TRY(new_->Sync());
  QC_TRY(root_->Sync());
  QC_TRY(Publish());
  active_ = false;
  RemoveRoot();
  return home_->Sync();
}

Status Staging::Publish() {
  if (product_ == Product::kFile) {
    QC_TRY(new_->Rename(name_, *home_, name_, replace_ ? Dir::Move::kReplace : Dir::Move::kNoReplace));
    return home_->Sync();
  }
  if (in_place_) {
    QC_ASSIGN(const std::vector<DirEntry> entries, new_->List());
    for (const DirEntry& entry : entries) {
      if (entry.name != kLast) QC_TRY(new_->Rename(entry.name, *home_, entry.name, Dir::Move::kNoReplace));
    }
    QC_TRY(home_->Sync());
    QC_TRY(new_->Rename(kLast, *home_, kLast, Dir::Move::kNoReplace));
    return home_->Sync();
  }
  if (!replace_) {
    const Status moved = root_->Rename(kNew, *home_, name_, exists_ ? Dir::Move::kReplace : Dir::Move::kNoReplace);
    if (!moved.ok() && moved.error().id == "output-exists" && keep_equal_) return CompareWithOut();
    QC_TRY(moved);
  } else if (!root_->Rename(kNew, *home_, name_, Dir::Move::kExchange).ok()) {
    // The file system cannot swap: two renames, which Recover undoes if we die between them.
    QC_TRY(home_->Rename(name_, *root_, kOld, Dir::Move::kNoReplace));
    if (Status moved = root_->Rename(kNew, *home_, name_, Dir::Move::kNoReplace); !moved.ok()) {
      QC_TRY(root_->Rename(kOld, *home_, name_, Dir::Move::kNoReplace));
      return moved;
    }
  }
  return home_->Sync();
}

Status Staging::CompareWithOut() {
  QC_ASSIGN(const Dir there, home_->OpenDir(name_));
  QC_ASSIGN(const std::string difference, Difference(*new_, there));
  if (!difference.empty()) {
    return MakeError(Code::kFindings, "output-differs", "output '{}' is there already and is not what this run made of the input: {}; it stays as it is: move it away, or take another output", Escape(out_), difference);
  }
  found_equal_ = true;
  return {};
}

void Staging::RemoveRoot() {
  // Nothing can be done about a failure here; the next run for this output tries again.
  (void)root_->RemoveTree(kNew);
  // What --force was replacing may go only once its replacement is there; else the next run
  // puts it back.
  const Result<bool> replaced = home_->Has(name_);
  if (in_place_ || (replaced.ok() && replaced.value())) (void)root_->RemoveTree(kOld);
  const Result<bool> kept = root_->Has(kOld);
  if (!kept.ok() || kept.value()) return;
  (void)root_->RemoveTree(kLock);
  (void)home_->RemoveTree(root_name_);
}

}  // namespace q2c
