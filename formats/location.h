// Where a checkpoint lies: a folder, a snapshot folder of a Hub cache, the folder of a repository
// in it, or a Hub name that is looked up in the cache of this machine. Never the network.
#pragma once

#include <optional>
#include <string>

#include "formats/base/file.h"

namespace q2c {

class Location {
 public:
  // `path` is a folder or hf://org/name[@revision]; the latter is found through HF_HUB_CACHE, else
  // HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub or ~/.cache/huggingface/hub.
  // Of a folder models--ORG--NAME with snapshots the one of `main` is meant.
  // Errors: kUsage "no-folder", "hub-name", "hub-missing".
  static Result<Location> Open(const std::string& path, Links links);

  const Dir& dir() const { return dir_; }

  // "org/name" where this is a snapshot of a Hub cache, by the name of its repository's folder; else "".
  std::string HubName() const;

  // Opens a member of the folder. A symbolic link is followed once, and only into the
  // blobs/ folder of the same Hub repository, unless all links are to be followed.
  Result<InputFile> OpenMember(const std::string& name) const;

 private:
  Location(Dir dir, std::optional<Dir> blobs, Links links) : dir_(std::move(dir)), blobs_(std::move(blobs)), links_(links) {}
  Dir dir_;
  std::optional<Dir> blobs_;  // of the Hub repository that this snapshot belongs to
  Links links_;
};

}  // namespace q2c
