#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <thread>

#include "batch.h"
#include "errors.h"
#include "half.h"
#include "queue.h"
#include "samples.h"

namespace internal = speech::internal;

using internal::Batch;
using internal::Output;

TEST_CASE("loader pads fills up and leaves out") {
  const samples::Folder folder;
  samples::write(folder.path / "a", std::vector<float>{1, 2, 3, 4, 5, 6});
  samples::write(folder.path / "b", std::vector<float>{7, NAN});
  samples::write(folder.path / "c", std::vector<float>{8});
  std::vector<internal::Utterance> utterances(4);
  for (std::size_t i = 0; i < utterances.size(); ++i) {
    utterances[i].name = "abcd"[i];
    utterances[i].file = folder.path / utterances[i].name;
    utterances[i].frames = i == 0 ? 3 : 1;
  }
  internal::PlannedBatch planned;
  planned.batch = 3;
  planned.frames = 4;
  planned.rows = {{1, 0, 1, 1}, {2, 0, 1, 1}, {0, 0, 3, 2}, {3, 0, 1, 1}, {0, 1, 2, 2}};
  std::string failed;
  const internal::FeatureFiles source(2);
  internal::Loader loader(utterances, source, 2);
  Batch batch = loader.load(planned, [&](std::size_t index, const std::string& reason) {
    failed += utterances[index].name + (reason.empty() ? "" : "! ");
  });
  CHECK(failed == "b! c! d! ");
  CHECK(batch.rows.size() == 2);
  CHECK(batch.rows[1].start == 1);
  CHECK((batch.input.lengths == std::vector<std::int32_t>{3, 2, 2}));
  CHECK((batch.input.features == std::vector<float>{1, 2, 3, 0, 4, 5, 6, 0, 2, 3, 0, 0,
                                                    5, 6, 0, 0, 2, 3, 0, 0, 5, 6, 0, 0}));
}

TEST_CASE("loader leaves out what finds no memory") {
  class Greedy : public internal::FeatureSource {
   public:
    std::vector<float> features(std::size_t, const internal::Utterance&) const override {
      throw std::bad_alloc();
    }
  };
  std::vector<internal::Utterance> utterances(2);
  for (internal::Utterance& utterance : utterances) utterance.file = "huge";
  internal::PlannedBatch planned;
  planned.batch = 4;
  planned.frames = 1;
  planned.rows = {{0, 0, 1, 1}, {1, 0, 1, 1}};
  std::string failed;
  const auto fails = [&](std::size_t index, const std::string& reason) {
    failed += std::to_string(index) + " " + reason + "\n";
  };
  const Greedy source;
  internal::Loader loader(utterances, source, 2);
  CHECK(loader.load(planned, fails).rows.empty());
  CHECK(failed == "0 huge: not enough memory\n1 huge: not enough memory\n");
  failed.clear();
  planned.frames = std::int64_t{1} << 58;
  CHECK(loader.load(planned, fails).rows.empty());
  CHECK(failed.rfind("0 not enough memory for 4 x 288230376151711744 frames\n1 ", 0) == 0);
}

TEST_CASE("outputs are checked and cut") {
  Output output;
  output.frames = 3;
  output.batch = 2;
  output.labels = 2;
  for (int i = 0; i < 12; ++i) output.log_probs.push_back(static_cast<float>(i));
  output.lengths = {3, 2};
  internal::Input input;
  input.batch = 2;
  input.lengths = {6, 4};
  internal::check_output(input, output, 2);
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::check_output(input, output, 3)),
                       doctest::Contains("(3, 2, 2)"), std::runtime_error);
  const internal::Emission second = internal::emission(output, 1);
  CHECK(second.frames == 2);
  CHECK((second.values == std::vector<float>{2, 3, 6, 7}));
  output.log_probs[2] = NAN;
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::emission(output, 1)),
                       doctest::Contains("no numbers"), internal::InputError);
  output.lengths = {4, 2};
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::check_output(input, output, 2)),
                       doctest::Contains("length of 4"), std::runtime_error);
  output.lengths = {3};
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::check_output(input, output, 2)),
                       doctest::Contains(""), std::runtime_error);
}

TEST_CASE("joiner waits for all parts") {
  internal::Joiner joiner(1, 2);
  internal::Emission single{1, {9}}, first{3, {1, 2, 3}}, second{3, {3, 4, 5}};
  CHECK(joiner.add({0, 0, 2, 1}, single));
  CHECK(single.values.size() == 1);
  CHECK(!joiner.add({1, 4, 6, 2}, second));
  CHECK(joiner.add({1, 0, 6, 2}, first));
  CHECK(first.frames == 5);
  CHECK((first.values == std::vector<float>{1, 2, 3, 4, 5}));
}

TEST_CASE("half precision goes there and back") {
  for (unsigned code = 0; code < 65536; ++code) {
    const auto half = static_cast<std::uint16_t>(code);
    const float value = internal::from_half(half);
    if (std::isnan(value)) {
      CHECK(std::isnan(internal::from_half(internal::to_half(value))));
      continue;
    }
    CHECK(internal::to_half(value) == half);
    if (std::isinf(value) || (half & 0x7FFF) >= 0x7BFF) continue;
    // Halfway to the next one: the even one of the two.
    const float next = internal::from_half(static_cast<std::uint16_t>(half + 1));
    CHECK(internal::to_half((value + next) / 2) == (half % 2 == 0 ? half : half + 1));
  }
  CHECK(internal::from_half(0x3C00) == 1);
  CHECK(internal::from_half(0xC000) == -2);
  CHECK(internal::from_half(0x0001) == std::ldexp(1.0F, -24));
  CHECK(internal::from_half(0x7BFF) == 65504);
  CHECK(internal::to_half(65519) == 0x7BFF);
  CHECK(internal::to_half(65520) == 0x7C00);
  CHECK(internal::to_half(-1e10F) == 0xFC00);
  CHECK(internal::to_half(1e-10F) == 0);
}

TEST_CASE("queue hands over in order and ends") {
  internal::Queue<int> queue(2);
  std::thread giver([&queue] {
    for (int i = 0; i < 1000; ++i) queue.push(i);
    queue.close();
  });
  int expected = 0;
  while (const auto item = queue.pop()) CHECK(*item == expected++);
  giver.join();
  CHECK(expected == 1000);
  CHECK(!queue.push(1));
  internal::Queue<int> full(1);
  full.push(1);
  std::thread waiting([&full] { CHECK(!full.push(2)); });
  full.close();
  waiting.join();
  CHECK(full.pop() == 1);
  CHECK(!full.pop());
}
