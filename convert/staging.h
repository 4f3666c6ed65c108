// Where the output grows until it is complete: a hidden folder beside OUT, which one
// rename turns into OUT. A run that fails removes it; a run that was killed leaves it,
// locked by nobody, and the next run for the same OUT clears it away.
//
//   PARENT/.OUT.qwen2-convert/lock   held while a run is writing
//   PARENT/.OUT.qwen2-convert/new/   the output so far
//   PARENT/.OUT.qwen2-convert/old/   the folder that --force is replacing, for a moment
//
// OUT may also be a file (an archive): then new/ holds one file of OUT's name, which takes its place.
//
// Attempts of a zoo's workers, of whom one may believe another dead, carry their number behind
// the name of the hidden folder, so that none writes into the folder of another.
//
// If OUT is the root of a mounted file system it cannot be renamed: then the folder lies
// inside OUT, and the files are moved out of it one by one, config.json last.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "formats/base/file.h"

namespace q2c {

// What an OUT that holds something means: an error; it is replaced; or it stays, and it is an
// error at the end unless it equals, byte for byte, what would have been put there.
enum class Overwrite { kRefuse, kReplace, kKeepEqual };
enum class Product { kFolder, kFile };  // kFile: not with kKeepEqual

class Staging {
 public:
  // Errors: kUsage "output-…" if OUT is, contains or lies in the input, is a link or a file,
  // or is not empty; a folder or, without kReplace, a file that is there, for kFile; kTryAgain "locked"; by errno.
  // `attempt`: behind the hidden folder's name, unless 0.
  static Result<Staging> Begin(const std::string& out, const std::string& in, Overwrite overwrite, uint64_t attempt = 0, Product product = Product::kFolder);
  // The hidden folders beside any of `outs`, whether somebody works in them or died over them.
  struct Left {
    std::string out;
    uint64_t attempt = 0;
    std::string path;
  };
  static Result<std::vector<Left>> FindLeft(const std::vector<std::string>& outs);
  // Removes what an attempt that nobody is working on any more has left. kTryAgain "locked" if somebody is.
  static Status Clear(const std::string& out, uint64_t attempt);
  Staging(Staging&& other) noexcept;
  Staging& operator=(Staging&&) = delete;
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging();  // removes what was staged, unless committed

  const Dir& dir() const { return *new_; }
  const std::string& name() const { return name_; }  // of OUT, and of the file in dir() for kFile
  bool in_place() const { return in_place_; }  // the weaker guarantee of a mount point

  // Makes OUT the staged folder. Everything in it must be synced already. Errors: kFindings
  // "output-differs" with kKeepEqual.
  Status Commit();
  // Was an equal OUT there already? (kKeepEqual, after Commit.)
  bool found_equal() const { return found_equal_; }
  // Leaves what was staged where it is, until the next run for the same OUT. Returns its path.
  std::string Keep();

 private:
  Staging() = default;
  Status CheckOut(const std::string& in, Overwrite overwrite);
  Status Lock();
  Status Recover();
  Status Publish();
  Status CompareWithOut();
  void RemoveRoot();

  std::string out_;         // absolute
  std::string name_;        // last component of out_
  std::string root_name_;
  bool exists_ = false;     // OUT is there already
  bool replace_ = false;    // and holds something that --force replaces
  bool in_place_ = false;
  bool keep_equal_ = false;
  Product product_ = Product::kFolder;
  bool found_equal_ = false;
  bool active_ = false;
  std::optional<Dir> home_;  // the folder that holds the root: OUT's parent, or OUT
  std::optional<Dir> root_;
  std::optional<Dir> new_;
  std::optional<FileLock> lock_;
};

}  // namespace q2c
