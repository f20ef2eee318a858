// SPDX-License-Identifier: Apache-2.0
#include "host/store/store.h"

#include "fettle_kit/io/sha256.h"

#include "host/store/record_json.h"
#include "unit/host/store/temporary_folder.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <thread>

namespace fettle::host {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::string key_of(const std::string& text) { return kit::sha256_hex(text); }

class StoreTest : public testing::Test {
 protected:
  TemporaryFolder folder;
  Store store = *Store::open(folder / "store");

  Store::Transaction begin(const std::string& key, const std::vector<std::string>& ports = {"model"}) {
    auto begun = store.begin(key, ports, nullptr);
    EXPECT_TRUE(begun.ok()) << begun.error().message();
    return std::get<Store::Transaction>(*std::move(begun));
  }
  /// A step that wrote these files to its output "model".
  Record commit(const std::string& key, const std::map<std::string, std::string>& files) {
    auto transaction = begin(key);
    for (const auto& [name, text] : files) write_file(transaction.staging("model") + "/" + name, text);
    Record record;
    record.technique = "test.write";
    auto done = transaction.commit(std::move(record), {{"model", "model"}});
    EXPECT_TRUE(done.ok()) << done.error().message();
    return *std::move(done);
  }
  Status commit_error(const std::function<void(const std::string& staging)>& write) {
    auto transaction = begin(key_of("bad"));
    write(transaction.staging("model"));
    auto done = transaction.commit({}, {{"model", "model"}});
    return done.ok() ? Status() : done.error();
  }
  std::string only_object() const { return fs::directory_iterator(folder / "store/objects")->path().string(); }
};

TEST_F(StoreTest, FindsWhatWasCommitted) {
  const Record made = commit(key_of("a"), {{"config.json", "{}"}, {"sub/model.bin", "weights"}});
  const auto found = store.find(key_of("a"));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->technique, "test.write");
  ASSERT_EQ(found->outputs.size(), 1u);
  const Artifact& artifact = found->outputs[0].second;
  EXPECT_EQ(artifact.digest, made.outputs[0].second.digest);
  ASSERT_EQ(artifact.files.size(), 2u);
  EXPECT_EQ(artifact.files[1].path, "sub/model.bin");
  EXPECT_EQ(artifact.files[1].sha256, kit::sha256_hex("weights"));
  EXPECT_EQ(artifact.bytes(), 9u);
}

TEST_F(StoreTest, ShowsAnArtifactAsAReadOnlyFolder) {
  const Record made = commit(key_of("a"), {{"sub/model.bin", "weights"}});
  const std::string path = *store.path_of(made.outputs[0].second);
  EXPECT_EQ(text_of(path + "/sub/model.bin"), "weights");
  struct stat info {};
  ASSERT_EQ(::stat((path + "/sub/model.bin").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0444u);
  EXPECT_EQ(*store.path_of(made.outputs[0].second), path);
}

TEST_F(StoreTest, MendsAFolderThatLostAFile) {
  const Record made = commit(key_of("a"), {{"model.bin", "weights"}});
  const std::string path = *store.path_of(made.outputs[0].second);
  fs::remove(path + "/model.bin");
  EXPECT_EQ(text_of(*store.path_of(made.outputs[0].second) + "/model.bin"), "weights");
}

TEST_F(StoreTest, KeepsOneObjectForEqualContent) {
  commit(key_of("a"), {{"x", "same"}, {"y", "same"}});
  commit(key_of("b"), {{"z", "same"}});
  EXPECT_EQ(store.summary()->objects, 1u);
  EXPECT_EQ(store.summary()->records, 2u);
}

TEST_F(StoreTest, GivesOneDigestToEqualTreesOfOneKind) {
  const Record a = commit(key_of("a"), {{"x", "1"}, {"y", "2"}});
  const Record b = commit(key_of("b"), {{"y", "2"}, {"x", "1"}});
  const Record c = commit(key_of("c"), {{"x", "2"}, {"y", "1"}});
  EXPECT_EQ(a.outputs[0].second.digest, b.outputs[0].second.digest);
  EXPECT_NE(a.outputs[0].second.digest, c.outputs[0].second.digest);
}

TEST(ArtifactDigest, DependsOnEachFieldOfTheContentAndOnNothingElse) {
  const Artifact base{"model", "", {{"a", 1, kit::sha256_hex("a"), ""}, {"b", 2, kit::sha256_hex("b"), ""}}, {}};
  std::vector<std::string> digests{artifact_digest(base)};
  const auto changed = [&](const std::function<void(Artifact&)>& change) {
    Artifact other = base;
    change(other);
    return artifact_digest(other);
  };
  EXPECT_EQ(changed([](Artifact& a) { a.files[0].link = "/elsewhere/a"; }), digests[0]);
  EXPECT_EQ(changed([](Artifact& a) { a.attributes = {{"x", "y"}}; }), digests[0]);
  digests.push_back(changed([](Artifact& a) { a.kind += "2"; }));
  digests.push_back(changed([](Artifact& a) { a.files[0].path += "c"; }));
  digests.push_back(changed([](Artifact& a) { a.files[0].size = 3; }));
  digests.push_back(changed([](Artifact& a) { a.files[1].sha256 = kit::sha256_hex("c"); }));
  digests.push_back(changed([](Artifact& a) { a.files.pop_back(); }));
  digests.push_back(changed([](Artifact& a) { std::swap(a.files[0].sha256, a.files[1].sha256); }));
  EXPECT_EQ(std::set<std::string>(digests.begin(), digests.end()).size(), digests.size());
}

TEST_F(StoreTest, LeavesNothingOfATransactionThatWasGivenUp) {
  {
    auto transaction = begin(key_of("a"));
    write_file(transaction.staging("model") + "/x", "half");
    write_file(transaction.scratch() + "/t", "temporary");
    write_file(transaction.checkpoint() + "/state", "step 7");
  }
  EXPECT_FALSE(store.find(key_of("a")));
  EXPECT_TRUE(fs::is_empty(folder / "store/staging"));
  EXPECT_TRUE(fs::is_empty(folder / "store/leases"));
  EXPECT_EQ(text_of(begin(key_of("a")).checkpoint() + "/state"), "step 7");
}

TEST_F(StoreTest, RemovesTheCheckpointOnceTheStepIsDone) {
  { write_file(begin(key_of("a")).checkpoint() + "/state", "step 7"); }
  commit(key_of("a"), {{"x", "1"}});
  EXPECT_TRUE(fs::is_empty(folder / "store/checkpoints"));
}

// ---- what an output may hold ----

TEST_F(StoreTest, TakesALinkToAFileOutsideWithoutCopyingIt) {
  write_file(folder / "big.bin", "weights");
  auto transaction = begin(key_of("a"));
  fs::create_symlink(folder / "big.bin", transaction.staging("model") + "/model.bin");
  const Record record = *transaction.commit({}, {{"model", "model"}});
  EXPECT_EQ(record.outputs[0].second.files[0].link, folder / "big.bin");
  EXPECT_EQ(store.summary()->objects, 0u);
  EXPECT_EQ(text_of(*store.path_of(record.outputs[0].second) + "/model.bin"), "weights");
  EXPECT_EQ(record.outputs[0].second.digest,
            commit(key_of("copied"), {{"model.bin", "weights"}}).outputs[0].second.digest);
}

TEST_F(StoreTest, TakesALinkToAFileOfAnInputAsThatObject) {
  const std::string input = *store.path_of(commit(key_of("a"), {{"x", "1"}}).outputs[0].second);
  auto transaction = begin(key_of("b"));
  fs::create_symlink(input + "/x", transaction.staging("model") + "/y");
  const Record record = *transaction.commit({}, {{"model", "model"}});
  EXPECT_EQ(record.outputs[0].second.files[0].link, "");
  EXPECT_EQ(store.summary()->objects, 1u);
}

TEST_F(StoreTest, CopiesAFileThatSomeoneElseAlsoHas) {
  write_file(folder / "theirs", "1");
  auto transaction = begin(key_of("a"));
  fs::create_hard_link(folder / "theirs", transaction.staging("model") + "/x");
  ASSERT_TRUE(transaction.commit({}, {{"model", "model"}}).ok());
  EXPECT_NE(fs::status(folder / "theirs").permissions(), fs::status(only_object()).permissions());
  write_file(folder / "theirs", "changed");
  EXPECT_TRUE(store.find(key_of("a")));
}

TEST_F(StoreTest, RefusesAnEmptyOutput) {
  EXPECT_EQ(commit_error([](const std::string&) {}).message(), "output 'model': nothing was written to it");
}

TEST_F(StoreTest, RefusesALinkIntoTheStepsOwnFolders) {
  EXPECT_EQ(
      commit_error([](const std::string& staging) {
        write_file(staging + "/x", "1");
        fs::create_symlink(staging + "/x", staging + "/y");
      }).message(),
      "output 'model': 'y': is a link into the step's own folders; write the file itself, or link to one outside");
}

TEST_F(StoreTest, RefusesALinkThatLeadsNowhere) {
  EXPECT_EQ(
      commit_error([](const std::string& staging) { fs::create_symlink("/nowhere/at/all", staging + "/y"); }).message(),
      "output 'model': 'y': is a link that leads nowhere");
}

TEST_F(StoreTest, RefusesALinkToAFolder) {
  EXPECT_EQ(commit_error([](const std::string& staging) { fs::create_symlink("/usr", staging + "/y"); }).message(),
            "output 'model': 'y': is a link to something that is not a file");
}

TEST_F(StoreTest, RefusesWhatIsNotAFile) {
  EXPECT_EQ(commit_error([](const std::string& staging) {
              ASSERT_EQ(::mkfifo((staging + "/p").c_str(), 0600), 0);
            }).message(),
            "output 'model': 'p': is neither a file nor a link to one");
}

TEST_F(StoreTest, RefusesAFileNameThatIsNotUtf8) {
  EXPECT_EQ(commit_error([](const std::string& staging) { write_file(staging + "/\xff", "1"); }).message(),
            "output 'model': a file name is not valid UTF-8");
}

TEST_F(StoreTest, RefusesFoldersNestedTooDeep) {
  EXPECT_EQ(commit_error([](const std::string& staging) {
              std::string path = staging;
              for (int i = 0; i < 70; ++i) path += "/d";
              write_file(path + "/x", "1");
            }).message(),
            "output 'model': folders are nested more than 64 deep");
}

// ---- hits and misses ----

TEST_F(StoreTest, SaysThatThereIsNoRecord) {
  std::string why;
  EXPECT_FALSE(store.find(key_of("never"), &why));
  EXPECT_EQ(why, "no record");
}

TEST_F(StoreTest, DoesNotFindARecordWhoseObjectIsGone) {
  const Record made = commit(key_of("a"), {{"x", "1"}});
  fs::remove(only_object());
  std::string why;
  EXPECT_FALSE(store.find(key_of("a"), &why));
  EXPECT_EQ(why, "object " + kit::sha256_hex("1") + " ('x' of output 'model') is missing or was changed");
  const auto path = store.path_of(made.outputs[0].second);
  EXPECT_EQ(path.error().code(), Code::corrupt_data);
  EXPECT_EQ(path.error().where(), "store");
  EXPECT_EQ(path.error().message(), "store '" + store.root() + "': object " + kit::sha256_hex("1") +
                                        " is missing or was changed; run 'fettle store verify'");
}

TEST_F(StoreTest, DoesNotFindARecordWhoseObjectWasWrittenTo) {
  commit(key_of("a"), {{"x", "1"}});
  fs::permissions(only_object(), fs::perms::owner_write, fs::perm_options::add);
  write_file(only_object(), "2");
  EXPECT_FALSE(store.find(key_of("a")));
  commit(key_of("a"), {{"x", "1"}});  // running the step again heals the object
  EXPECT_TRUE(store.find(key_of("a")));
  EXPECT_THAT(*store.verify(), IsEmpty());
}

TEST_F(StoreTest, DoesNotFindARecordWhoseLinkedFileChanged) {
  write_file(folder / "big.bin", "weights");
  auto transaction = begin(key_of("a"));
  fs::create_symlink(folder / "big.bin", transaction.staging("model") + "/model.bin");
  ASSERT_TRUE(transaction.commit({}, {{"model", "model"}}).ok());
  EXPECT_TRUE(store.find(key_of("a")));
  age(folder / "big.bin");  // other times, same content
  EXPECT_TRUE(store.find(key_of("a")));
  write_file(folder / "big.bin", "WEIGHTS");
  std::string why;
  EXPECT_FALSE(store.find(key_of("a"), &why));
  EXPECT_EQ(why, "'model.bin' of output 'model' has changed: " + (folder / "big.bin"));
  fs::remove(folder / "big.bin");
  EXPECT_FALSE(store.find(key_of("a"), &why));
  EXPECT_EQ(why, "'model.bin' of output 'model' cannot be read any more: " + (folder / "big.bin") +
                     ": cannot open the file: No such file or directory");
}

TEST_F(StoreTest, NeverTrustsADamagedRecord) {
  commit(key_of("a"), {{"x", "1"}});
  const std::string path = folder / ("store/records/" + key_of("a") + ".json");
  const std::string text = text_of(path);
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    std::string damaged = text;
    if (i % 3 == 0)
      damaged.resize(random() % text.size());
    else
      damaged[random() % text.size()] ^= static_cast<char>(1 + random() % 255);
    write_file(path, damaged);
    std::string why;
    ASSERT_FALSE(store.find(key_of("a"), &why)) << damaged;
    ASSERT_THAT(why, HasSubstr("the record is damaged: its checksum does not match"));
  }
  const auto problems = *store.verify();
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0].path, path);
  EXPECT_EQ(problems[0].what, "the record is damaged: its checksum does not match");
}

TEST_F(StoreTest, DoesNotTakeOneKeysRecordForAnothers) {
  commit(key_of("a"), {{"x", "1"}});
  fs::copy_file(folder / ("store/records/" + key_of("a") + ".json"),
                folder / ("store/records/" + key_of("b") + ".json"));
  std::string why;
  EXPECT_FALSE(store.find(key_of("b"), &why));
  EXPECT_EQ(why, "the record is damaged: it belongs to key " + key_of("a"));
}

TEST(RecordJson, KeepsEverything) {
  Record record;
  record.key = key_of("k");
  record.technique = "quantize.gguf";
  record.key_text = R"({"epoch":1})";
  record.outputs.push_back(
      {"model", Artifact{"model", "", {{"a/b", 3, kit::sha256_hex("abc"), "/x/abc"}}, {{"weights", "f32"}}}});
  record.outputs[0].second.digest = artifact_digest(record.outputs[0].second);
  record.metrics["ppl"] = {31.25, 0.1, "per token"};
  record.metrics["loss"] = {std::numeric_limits<double>::infinity(), std::nullopt, ""};
  record.series["train"].points = {{0, 1.5}, {1, std::numeric_limits<double>::quiet_NaN()}};
  record.warnings = {"bad text: \xff"};
  record.seconds = 0.1;
  record.peak_memory = 1u << 30;
  const auto read = read_record(write_record(record), record.key);
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->key_text, record.key_text);
  EXPECT_EQ(read->outputs[0].second.files[0].link, "/x/abc");
  EXPECT_EQ(read->outputs[0].second.attributes, record.outputs[0].second.attributes);
  EXPECT_EQ(read->metrics.at("ppl").standard_error, 0.1);
  EXPECT_EQ(read->metrics.at("ppl").unit, "per token");
  EXPECT_TRUE(std::isinf(read->metrics.at("loss").value));
  EXPECT_TRUE(std::isnan(read->series.at("train").points[1].second));
  EXPECT_THAT(read->warnings, ElementsAre("bad text: \xef\xbf\xbd"));
  EXPECT_EQ(read->seconds, 0.1);
  EXPECT_EQ(read->peak_memory, record.peak_memory);
}

// ---- files outside ----

TEST_F(StoreTest, LinksAFolderWithoutHiddenFiles) {
  write_file(folder / "hf/config.json", "{}");
  write_file(folder / "hf/sub/x", "1");
  write_file(folder / "hf/.cache/y", "2");
  write_file(folder / "blob", "weights");
  fs::create_symlink("../blob", folder / "hf/model.bin");
  const Artifact artifact = *store.link("model", {folder / "hf"});
  ASSERT_EQ(artifact.files.size(), 3u);
  EXPECT_EQ(artifact.files[1].path, "model.bin");
  EXPECT_EQ(artifact.files[1].link, folder / "blob");
  EXPECT_EQ(text_of(*store.path_of(artifact) + "/sub/x"), "1");
  EXPECT_EQ(text_of(*store.path_of(artifact) + "/model.bin"), "weights");
}

TEST_F(StoreTest, ExplainsWhyAPathCannotBeLinked) {
  EXPECT_EQ(store.link("model", {folder / "none"}).error().message(),
            "'" + (folder / "none") + "': no such file or folder");
  fs::create_directories(folder / "empty");
  EXPECT_EQ(store.link("model", {folder / "empty"}).error().message(),
            "'" + (folder / "empty") + "': the folder has no files");
  write_file(folder / "a/x", "1");
  write_file(folder / "b/x", "2");
  EXPECT_EQ(store.link("text", {folder / "a/x", folder / "b/x"}).error().message(),
            "'" + (folder / "a/x") + "' and '" + (folder / "b/x") + "' have the same name; rename one of them");
  fs::create_directory_symlink(folder / "b", folder / "a/b");
  EXPECT_EQ(store.link("model", {folder / "a"}).error().message(),
            "'" + (folder / "a/b") + "': is a symbolic link to a folder; name that folder itself, or copy it");
}

TEST_F(StoreTest, RemembersASettledFileAndNoticesEveryChange) {
  const std::string path = folder / "x";
  write_file(path, "one");
  age(path);
  (void)*store.link("file", {path});
  EXPECT_TRUE(fs::is_empty(folder / "store/inputs")) << "its change time is too recent to remember it";
  write_file(path, "two");
  EXPECT_EQ(store.link("file", {path})->files[0].sha256, kit::sha256_hex("two"));
}

TEST_F(StoreTest, NoticesARewriteThatRestoresTheModificationTime) {
  const std::string path = folder / "x";
  write_file(path, "one");
  age(path, 100);
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(2100));  // until it counts as settled
  EXPECT_EQ(store.link("file", {path})->files[0].sha256, kit::sha256_hex("one"));
  EXPECT_FALSE(fs::is_empty(folder / "store/inputs"));
  EXPECT_EQ(store.link("file", {path})->files[0].sha256, kit::sha256_hex("one"));
  write_file(path, "two");
  const timespec times[2] = {info.st_atim, info.st_mtim};
  ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  EXPECT_EQ(store.link("file", {path})->files[0].sha256, kit::sha256_hex("two"));
}

// ---- single flight ----

TEST_F(StoreTest, WaitsForTheOtherAndTakesItsResult) {
  auto first = begin(key_of("a"));
  write_file(first.staging("model") + "/x", "1");
  std::thread other([&] {
    Store second = *Store::open(folder / "store");
    auto begun = second.begin(key_of("a"), {"model"}, nullptr);
    ASSERT_TRUE(begun.ok());
    EXPECT_TRUE(std::holds_alternative<Record>(*begun));
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  ASSERT_TRUE(first.commit({}, {{"model", "model"}}).ok());
  other.join();
}

TEST_F(StoreTest, TakesOverWhenTheOtherGivesUp) {
  auto first = std::make_unique<Store::Transaction>(begin(key_of("a")));
  std::thread other([&] {
    auto begun = store.begin(key_of("a"), {"model"}, nullptr);
    ASSERT_TRUE(begun.ok());
    EXPECT_TRUE(std::holds_alternative<Store::Transaction>(*begun));
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  first.reset();
  other.join();
}

TEST_F(StoreTest, StopsWaitingWhenCancelled) {
  const auto first = begin(key_of("a"));
  int polls = 0;
  const auto begun = store.begin(key_of("a"), {"model"}, [&] { return ++polls == 3; });
  ASSERT_FALSE(begun.ok());
  EXPECT_EQ(begun.error().code(), Code::cancelled);
  EXPECT_EQ(begun.error().message(), "cancelled while another process works on the same step");
}

TEST_F(StoreTest, ComputesAKeyOnceHoweverManyAskAtOnce) {
  std::atomic<int> computed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      for (int k = 0; k < 10; ++k) {
        auto begun = store.begin(key_of(std::to_string(k)), {"model"}, nullptr);
        ASSERT_TRUE(begun.ok()) << begun.error().message();
        if (auto* transaction = std::get_if<Store::Transaction>(&*begun)) {
          ++computed;
          write_file(transaction->staging("model") + "/x", std::to_string(k));
          ASSERT_TRUE(transaction->commit({}, {{"model", "model"}}).ok());
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(computed, 10);
  EXPECT_TRUE(fs::is_empty(folder / "store/leases"));
}

// ---- care ----

TEST_F(StoreTest, VerifyNamesWhatIsDamaged) {
  commit(key_of("a"), {{"x", "1"}});
  commit(key_of("b"), {{"x", "22"}});
  EXPECT_THAT(*store.verify(), IsEmpty());
  const std::string one = folder / ("store/objects/" + kit::sha256_hex("1"));
  fs::permissions(one, fs::perms::owner_write, fs::perm_options::add);
  write_file(one, "2");
  fs::remove(folder / ("store/objects/" + kit::sha256_hex("22")));
  const auto problems = *store.verify();
  ASSERT_EQ(problems.size(), 2u);
  EXPECT_EQ(problems[0].path, one);
  EXPECT_EQ(problems[0].what,
            "its content has changed: sha256 is " + kit::sha256_hex("2") + ", expected " + kit::sha256_hex("1"));
  EXPECT_EQ(problems[1].what, "is missing");
}

TEST_F(StoreTest, CollectsOnlyGarbage) {
  commit(key_of("a"), {{"x", "kept"}});
  commit(key_of("b"), {{"x", "garbage"}});
  fs::remove(folder / ("store/records/" + key_of("b") + ".json"));
  { write_file(begin(key_of("c")).checkpoint() + "/state", "resumable"); }
  EXPECT_EQ(store.summary()->garbage_bytes, 7u);
  EXPECT_EQ(*store.collect(std::nullopt, true), 7u);
  EXPECT_EQ(store.summary()->objects, 2u);
  EXPECT_EQ(*store.collect(std::nullopt, false), 7u);
  EXPECT_EQ(store.summary()->objects, 1u);
  EXPECT_TRUE(store.find(key_of("a")));
  EXPECT_FALSE(fs::is_empty(folder / "store/checkpoints"));
}

TEST_F(StoreTest, CollectsRecordsThatWereNotUsedForSomeDays) {
  commit(key_of("old"), {{"x", "old"}});
  commit(key_of("used"), {{"x", "used"}});
  const std::string old_record = folder / ("store/records/" + key_of("old") + ".json");
  const std::uint64_t old_bytes = text_of(old_record).size() + 3;
  age(old_record, 8 * 86400);
  age(folder / ("store/records/" + key_of("used") + ".json"), 8 * 86400);
  EXPECT_TRUE(store.find(key_of("used")));
  EXPECT_EQ(*store.collect(7, false), old_bytes);
  EXPECT_FALSE(store.find(key_of("old")));
  EXPECT_TRUE(store.find(key_of("used")));
}

TEST_F(StoreTest, DoesNotCollectUnderAnother) {
  const Store other = *Store::open(folder / "store");
  const auto freed = store.collect(std::nullopt, false);
  ASSERT_FALSE(freed.ok());
  EXPECT_EQ(freed.error().message(),
            "store '" + store.root() + "': another fettle uses it; try again when it has ended");
}

TEST_F(StoreTest, RefusesAFolderOfAnotherLayout) {
  write_file(folder / "store/fettle-store", "fettle store 2\n");
  const auto opened = Store::open(folder / "store");
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().where(), "store");
  EXPECT_EQ(opened.error().message(),
            "store '" + store.root() +
                "': 'fettle-store' does not say 'fettle store 1': made by another version, or "
                "damaged; choose another folder");
}

TEST_F(StoreTest, SaysHowMuchRoomIsMissing) {
  EXPECT_TRUE(store.check_space(1).ok());
  const Status status = store.check_space(1ull << 60);
  EXPECT_EQ(status.code(), Code::io);
  EXPECT_THAT(status.message(), HasSubstr("': the disk is full: 1,152,921,504,606,846,976 bytes are needed, "));
  EXPECT_THAT(status.message(),
              HasSubstr(" are available; free some space, run 'fettle store gc', or choose a store on another disk"));
}

/// Runs `body` in a child process that has a file system of 64 KiB at `path`; returns what it wrote to the pipe.
std::optional<std::string> on_a_tiny_disk(const std::string& path, const std::function<std::string()>& body) {
  int ends[2];
  if (::pipe(ends) != 0) return std::nullopt;
  const pid_t child = ::fork();
  if (child == 0) {
    const bool mounted = ::unshare(CLONE_NEWNS) == 0 &&
                         ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                         ::mount("none", path.c_str(), "tmpfs", 0, "size=256k") == 0;
    const std::string said = mounted ? body() : "no mount";
    (void)!::write(ends[1], said.data(), said.size());
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string said;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;)
    said.append(buffer, static_cast<std::size_t>(n));
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  if (said == "no mount") return std::nullopt;
  return said;
}

TEST(StoreOnAFullDisk, SaysSoAndLeavesNoRecord) {
  TemporaryFolder folder;
  const auto said = on_a_tiny_disk(folder.path(), [&]() -> std::string {
    Store store = *Store::open(folder / "store");
    auto begun = store.begin(key_of("a"), {"model"}, nullptr);
    auto transaction = std::get<Store::Transaction>(*std::move(begun));
    write_file(transaction.staging("model") + "/x", "1");
    write_file(folder / "filler", std::string(1u << 20, 'x'));  // takes all that is left
    auto done = transaction.commit({}, {{"model", "model"}});
    if (done.ok()) return "committed";
    return (store.find(key_of("a")) ? "record left: " : "no record: ") + done.error().message();
  });
  if (!said) GTEST_SKIP() << "mounting a small file system needs privileges";
  EXPECT_EQ(*said,
            "no record: " + (folder / "store/staging/" + key_of("a")) +
                "/record.json.new: cannot write: the disk is full, 0 bytes are available; free some space, or run "
                "'fettle store gc'");
}

}  // namespace
}  // namespace fettle::host
