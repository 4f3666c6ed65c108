// Folders, Hub snapshots and Hub names; links only into the blobs of the same repository.
#include "formats/location.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

class LocationTest : public testing::Test {
 protected:
  LocationTest() {
    test::WriteWhole(repo_ + "/blobs/abc", "content");
    test::WriteWhole(folder_ / "secret", "secret");
    std::filesystem::create_directories(snapshot_);
    test::WriteWhole(repo_ + "/refs/main", "c0ffee");
    test::WriteWhole(repo_ + "/refs/v1", "c0ffee\n");
    Link("../../blobs/abc", "good");
    ::setenv("HF_HUB_CACHE", (folder_ / "hub").c_str(), 1);
  }
  ~LocationTest() override { ::unsetenv("HF_HUB_CACHE"); }
  void Link(const std::string& to, const std::string& name) const { std::filesystem::create_symlink(to, snapshot_ + "/" + name); }

  const test::TempFolder folder_;
  const std::string repo_ = folder_ / "hub/models--org--name";
  const std::string snapshot_ = repo_ + "/snapshots/c0ffee";
};

TEST_F(LocationTest, LinksIntoTheBlobsOfTheRepository) {
  const Location location = Must(Location::Open(snapshot_, Links::kRefuse));
  EXPECT_EQ(Must(Must(location.OpenMember("good")).ReadAll(100)), "content");
  Link(repo_ + "/blobs/abc", "absolute");
  EXPECT_EQ(Must(Must(location.OpenMember("absolute")).ReadAll(100)), "content");
}

TEST_F(LocationTest, NoOtherLinks) {
  std::filesystem::create_symlink(folder_ / "secret", repo_ + "/blobs/chained");
  test::WriteWhole(folder_ / "hub/models--org--other/blobs/abc", "theirs");
  Link(folder_ / "secret", "outside");
  Link("../../../../secret", "outside2");
  Link("../../blobs/../../../secret", "outside3");
  Link("../../blobs", "folder");
  Link("../../../models--org--other/blobs/abc", "neighbour");
  Link("../../blobs/chained", "chain");
  const Location location = Must(Location::Open(snapshot_, Links::kRefuse));
  for (const char* name : {"outside", "outside2", "outside3", "folder", "neighbour", "chain"}) ExpectError(location.OpenMember(name), Code::kMalformed, "link-outside", {name});
  const Location trusting = Must(Location::Open(snapshot_, Links::kFollow));
  EXPECT_EQ(Must(Must(trusting.OpenMember("outside")).ReadAll(100)), "secret");
}

TEST_F(LocationTest, InAnOrdinaryFolderNoLinkAtAll) {
  test::WriteWhole(folder_ / "model/f", "x");
  std::filesystem::create_symlink("f", folder_ / "model/link");
  const Location location = Must(Location::Open(folder_ / "model", Links::kRefuse));
  Must(location.OpenMember("f"));
  ExpectError(location.OpenMember("link"), Code::kMalformed, "link-outside");
}

TEST_F(LocationTest, HubNames) {
  for (const char* name : {"hf://org/name", "hf://org/name@main", "hf://org/name@v1", "hf://org/name@c0ffee"}) {
    EXPECT_EQ(RealPath(Must(Location::Open(name, Links::kRefuse)).dir().path()), snapshot_) << name;
  }
  for (const char* name : {"hf://org", "hf://org/", "hf:///name", "hf://org/name/more", "hf://org/name@", "hf://../name", "hf://org/..", "hf://org/name@../x", "hf://org/name@/etc"}) {
    ExpectError(Location::Open(name, Links::kRefuse), Code::kUsage, "hub-name");
  }
  ExpectError(Location::Open("hf://org/absent", Links::kRefuse), Code::kUsage, "hub-missing", {"HF_HUB_CACHE"});
  ExpectError(Location::Open("hf://org/name@v2", Links::kRefuse), Code::kUsage, "hub-missing", {"v2"});
  test::WriteWhole(repo_ + "/refs/evil", "../../../..");
  ExpectError(Location::Open("hf://org/name@evil", Links::kRefuse), Code::kUsage, "hub-missing");
  ExpectError(Location::Open(folder_ / "absent", Links::kRefuse), Code::kUsage, "no-folder");
}

// huggingface_hub's: each one set hides those behind it.
TEST_F(LocationTest, CacheFoldersInTheirOrder) {
  ::unsetenv("HF_HUB_CACHE");
  const std::string hub = folder_ / "hub";
  std::filesystem::create_directories(folder_ / "xdg/huggingface");
  std::filesystem::create_symlink(hub, folder_ / "xdg/huggingface/hub");
  const std::vector<std::pair<const char*, std::string>> variables = {
      {"XDG_CACHE_HOME", folder_ / "xdg"}, {"HF_HOME", folder_.path()}, {"HUGGINGFACE_HUB_CACHE", hub}, {"HF_HUB_CACHE", hub}};
  for (const auto& [name, value] : variables) {
    ::setenv(name, value.c_str(), 1);
    EXPECT_EQ(RealPath(Must(Location::Open("hf://org/name", Links::kRefuse)).dir().path()), snapshot_) << name;
    ::setenv(name, (folder_ / "elsewhere").c_str(), 1);
    ExpectError(Location::Open("hf://org/name", Links::kRefuse), Code::kUsage, "hub-missing", {"elsewhere"});
  }
  for (const auto& [name, value] : variables) ::unsetenv(name);
}

TEST_F(LocationTest, ARepositorysFolderMeansMain) {
  for (const std::string& path : {repo_, repo_ + "/"}) {
    const Location location = Must(Location::Open(path, Links::kRefuse));
    EXPECT_EQ(RealPath(location.dir().path()), snapshot_);
    EXPECT_EQ(location.HubName(), "org/name");
    Must(location.OpenMember("good"));
  }
  std::filesystem::remove(repo_ + "/refs/main");
  ExpectError(Location::Open(repo_, Links::kRefuse), Code::kUsage, "hub-missing", {"'main'", "snapshots/"});
}

TEST_F(LocationTest, MessagesNameTheFileAndNotItsBlob) {
  const Location location = Must(Location::Open(snapshot_, Links::kRefuse));
  const Result<std::string> read = Must(location.OpenMember("good")).ReadAll(1);
  ExpectError(read, Code::kMalformed, "file-size", {"snapshots/c0ffee/good"});
  EXPECT_EQ(read.error().message.find("blobs"), std::string::npos) << read.error().message;
}

}  // namespace
}  // namespace q2c
