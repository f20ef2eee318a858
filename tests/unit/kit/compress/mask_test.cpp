// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/mask.h"

#include <gtest/gtest.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <numeric>
#include <random>

namespace fettle::kit {
namespace {

std::vector<int> kept(const Mask& mask) {
  std::vector<int> out;
  for (std::int64_t i = 0; i < mask.rows(); ++i)
    for (std::int64_t j = 0; j < mask.cols(); ++j) out.push_back(mask.kept(i, j) ? 1 : 0);
  return out;
}

struct NofMCase {
  const char* name;
  std::vector<float> row;
  NofM pattern;
  std::vector<int> expected;
};

class NofMMask : public ::testing::TestWithParam<NofMCase> {};

TEST_P(NofMMask, KeepsTheLargestOfEachGroup) {
  const auto& c = GetParam();
  EXPECT_EQ(kept(prune_n_of_m(ConstMatrix(c.row.data(), 1, static_cast<std::int64_t>(c.row.size())), c.pattern)),
            c.expected);
}

INSTANTIATE_TEST_SUITE_P(
    Rows, NofMMask,
    ::testing::Values(NofMCase{"two_of_four", {4, 1, 3, 2}, {2, 4}, {1, 0, 1, 0}},
                      NofMCase{"ties_go_left", {1, 1, 1, 1}, {2, 4}, {1, 1, 0, 0}},
                      NofMCase{"two_groups", {0, 9, 8, 7, 1, 2, 3, 4}, {2, 4}, {0, 1, 1, 0, 0, 0, 1, 1}},
                      NofMCase{"one_of_two", {2, 3, 5, 4}, {1, 2}, {0, 1, 1, 0}},
                      NofMCase{"all_kept", {1, 2, 3, 4}, {4, 4}, {1, 1, 1, 1}}),
    [](const auto& row) { return row.param.name; });

struct ShareCase {
  const char* name;
  std::int64_t rows, cols;
  std::vector<float> scores;
  double share;
  Group group;
  std::vector<int> expected;
};

class ShareMask : public ::testing::TestWithParam<ShareCase> {};

TEST_P(ShareMask, PrunesTheSmallestOfEachGroup) {
  const auto& c = GetParam();
  EXPECT_EQ(kept(prune_share(ConstMatrix(c.scores.data(), c.rows, c.cols), c.share, c.group)), c.expected);
}

INSTANTIATE_TEST_SUITE_P(
    Matrices, ShareMask,
    ::testing::Values(ShareCase{"matrix", 2, 3, {1, 2, 3, 4, 5, 6}, 0.5, Group::matrix, {0, 0, 0, 1, 1, 1}},
                      ShareCase{"row", 2, 4, {1, 2, 3, 4, 8, 7, 6, 5}, 0.5, Group::row, {0, 0, 1, 1, 1, 1, 0, 0}},
                      ShareCase{"rounds_down", 1, 5, {5, 4, 3, 2, 1}, 0.5, Group::row, {1, 1, 1, 0, 0}},
                      ShareCase{"ties_keep_the_earlier", 1, 4, {1, 1, 1, 1}, 0.5, Group::matrix, {1, 1, 0, 0}},
                      ShareCase{"ties_keep_the_earlier_in_a_row", 1, 4, {1, 1, 1, 1}, 0.5, Group::row, {1, 1, 0, 0}},
                      ShareCase{"nothing", 1, 2, {0, 0}, 0, Group::matrix, {1, 1}},
                      ShareCase{"everything", 1, 2, {1, 2}, 1, Group::matrix, {0, 0}},
                      // 0.3 * 10 is 2.9999999999999996 in binary
                      ShareCase{"three_tenths_of_ten",
                                1,
                                10,
                                {1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
                                0.3,
                                Group::matrix,
                                {0, 0, 0, 1, 1, 1, 1, 1, 1, 1}}),
    [](const auto& row) { return row.param.name; });

std::vector<float> random_scores(std::size_t n, unsigned seed, bool coarse) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> s(n);
  for (float& x : s) x = coarse ? std::abs(std::round(normal(random) * 2)) : std::abs(normal(random));
  return s;
}

TEST(ShareMask, EqualsAStableSortOfTheWholeMatrix) {
  for (const bool coarse : {false, true}) {  // coarse: many ties
    const auto scores = random_scores(37 * 53, coarse ? 1 : 2, coarse);
    std::vector<std::size_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return scores[a] > scores[b]; });
    std::vector<int> expected(scores.size(), 0);
    const auto keep = scores.size() - static_cast<std::size_t>(static_cast<double>(scores.size()) * 0.6);
    for (std::size_t i = 0; i < keep; ++i) expected[order[i]] = 1;
    EXPECT_EQ(kept(prune_share(ConstMatrix(scores.data(), 37, 53), 0.6, Group::matrix)), expected);
  }
}

TEST(ShareMask, IsTheSameForAnyThreadCount) {
  const auto scores = random_scores(256 * 100, 3, true);
  const ConstMatrix view(scores.data(), 256, 100);
  for (const Group group : {Group::matrix, Group::row}) {
    const Mask one = tbb::task_arena(1).execute([&] { return prune_share(view, 0.4, group); });
    const Mask many = tbb::task_arena(4).execute([&] { return prune_share(view, 0.4, group); });
    EXPECT_EQ(one, many);
  }
}

TEST(MaskColumns, PruneWhatAPartPrunes) {
  for (const std::int64_t first : {0, 8, 5})
    for (const std::int64_t cols : {8, 11, 3}) {
      Mask mask(3, 24), part(3, cols);
      mask.prune(1, 23);
      part.prune(1, 0), part.prune(2, cols - 1);
      mask.prune_columns(first, part);
      for (std::int64_t i = 0; i < 3; ++i)
        for (std::int64_t j = 0; j < 24; ++j) {
          const bool pruned = (i == 1 && (j == 23 || j == first)) || (i == 2 && j == first + cols - 1);
          EXPECT_EQ(mask.kept(i, j), !pruned) << first << ' ' << cols << ' ' << i << ' ' << j;
        }
      EXPECT_EQ(mask.count_pruned(), 3);
    }
}

// Scores of few values: most lie at the threshold, and rows of many portions share what may be kept of them.
TEST(ShareMask, CountsEqualScoresAcrossPortions) {
  constexpr std::int64_t rows = 300, cols = 21;
  std::vector<float> scores(rows * cols);
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i * 7 % 3);
  const Mask mask = prune_share({scores.data(), rows, cols}, 0.5, Group::matrix);
  EXPECT_EQ(mask.count_pruned(), rows * cols / 2);
  std::int64_t ones_left = rows * cols / 2 - rows * cols / 3;  // all zeros go, and so many ones, the last
  for (std::int64_t at = rows * cols - 1; at >= 0; --at) {
    const float score = scores[static_cast<std::size_t>(at)];
    const bool pruned = score == 0 || (score == 1 && ones_left-- > 0);
    ASSERT_EQ(mask.kept(at / cols, at % cols), !pruned) << at;
  }
}

TEST(NofM, KeepsTheBestOfTheSixPairsOfFour) {
  std::mt19937 random(5);
  std::uniform_real_distribution<float> uniform;
  for (int n = 0; n < 1000; ++n) {
    std::array<float, 4> scores;
    for (float& s : scores) s = uniform(random);
    std::uint64_t best = 0;
    float most = -1;
    for (unsigned i = 0; i < 4; ++i)
      for (unsigned j = i + 1; j < 4; ++j)
        if (scores[i] + scores[j] > most) most = scores[i] + scores[j], best = 1u << i | 1u << j;
    EXPECT_EQ(keep_n_of_m(scores.data(), {2, 4}), best);
  }
}

TEST(NofMMask, PrunesTheSameNumberInEveryGroup) {
  const auto scores = random_scores(64 * 128, 4, true);
  const Mask mask = prune_n_of_m(ConstMatrix(scores.data(), 64, 128), {2, 4});
  for (std::int64_t i = 0; i < 64; ++i)
    for (std::int64_t j = 0; j < 128; j += 4)
      EXPECT_EQ(mask.kept(i, j) + mask.kept(i, j + 1) + mask.kept(i, j + 2) + mask.kept(i, j + 3), 2);
}

TEST(NofM, ReadsWhatPeopleWrite) {
  const auto p = parse_n_of_m("4:8");
  ASSERT_TRUE(p.ok());
  EXPECT_EQ(p->n, 4);
  EXPECT_EQ(p->m, 8);
}

TEST(NofM, RefusesWhatIsNoPattern) {
  for (const char* text : {"", "2", "2:", ":4", "0:4", "5:4", "2:4x", "-1:4", "2:128", "2,4"})
    EXPECT_EQ(
        parse_n_of_m(text).error().message(),
        std::string("pattern '") + text + "' is not N:M with 1 <= N <= M <= 64; 2:4 keeps two of every four weights");
}

TEST(MaskArtifact, ReadsBackWhatWasWritten) {
  const std::string folder = ::testing::TempDir() + "fettle_mask_artifact";
  std::filesystem::create_directories(folder);
  Mask a(2, 3), b(1, 16);  // 3 columns: rows padded to a byte
  a.prune(0, 2);
  a.prune(1, 0);
  b.prune(0, 15);
  auto writer = MaskWriter::create(folder, {{"a", 2, 3}, {"b", 1, 16}});
  ASSERT_TRUE(writer.ok()) << writer.error().message();
  ASSERT_TRUE(writer->add("a", a).ok());
  ASSERT_TRUE(writer->add("b", b).ok());
  ASSERT_TRUE(writer->finish().ok());
  const auto masks = read_masks(folder);
  ASSERT_TRUE(masks.ok()) << masks.error().message();
  EXPECT_EQ(masks->at("a"), a);
  EXPECT_EQ(masks->at("b"), b);
  EXPECT_EQ(masks->at("a").count_pruned(), 2);
}

}  // namespace
}  // namespace fettle::kit
