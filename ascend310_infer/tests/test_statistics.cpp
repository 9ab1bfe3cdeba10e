#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "json.h"
#include "samples.h"
#include "statistics.h"

namespace internal = speech::internal;

TEST_CASE("percentiles are of the nearest rank") {
  std::vector<float> values;
  for (int i = 100; i > 0; --i) values.push_back(static_cast<float>(i));
  CHECK(internal::percentile(values, 50) == 50);
  CHECK(internal::percentile(values, 99) == 99);
  CHECK(internal::percentile(values, 100) == 100);
  CHECK(internal::percentile(values, 0) == 1);
  CHECK(internal::percentile({3, 1}, 50) == 1);
  CHECK(internal::percentile({3, 1}, 51) == 3);
  CHECK(internal::percentile({}, 50) == 0);
}

TEST_CASE("statistics are collected from the state") {
  internal::RunState state(2, 4, true);
  state.worker(0) = {2, 10, 9, 3, 1024};
  state.worker(1) = {3, 8, 8, 2, 2048};
  state.utterance(0).state = internal::State::kDone;
  state.utterance(0).network_ms = 20;
  state.utterance(0).total_ms = 30;
  state.utterance(1).state = internal::State::kFailed;
  state.utterance(2).state = internal::State::kDone;
  const std::vector<internal::Utterance> utterances{{"", "", 100}, {"", "", 1}, {"", "", 300}, {}};
  const internal::Statistics statistics = internal::collect(state, 2, true, utterances, 0.01);
  CHECK(statistics.done == 2);
  CHECK(statistics.failed == 1);
  CHECK(statistics.undone == 1);
  CHECK(statistics.batches == 5);
  CHECK(statistics.load_s == 3);
  CHECK(statistics.wall_s == 10);
  CHECK(statistics.peak_mib == 3);
  CHECK(statistics.audio_s == 4);
  CHECK(statistics.outside == 1.0 / 18);
  CHECK(statistics.processes == 2);
  const internal::Statistics threads = internal::collect(state, 2, false, utterances, 0.01);
  CHECK(threads.processes == 1);
  CHECK(threads.instances == 2);
  CHECK(threads.peak_mib == 2);  // of one process, whichever thread asked
  CHECK(internal::statistics_text(threads).find("processes 1, instances 2") != std::string::npos);

  const internal::Json json = internal::parse_json(internal::statistics_json(statistics));
  CHECK(json.at("real_time_factor").get<double>() == 2.5);
  CHECK(json.at("utterances_per_second").get<double>() == 0.2);
  CHECK(json.at("network_ms").at("p100").get<double>() == 20);
  CHECK(json.at("network_ms").at("mean").get<double>() == 10);
  const std::string text = internal::statistics_text(statistics);
  CHECK(text.find("real-time factor 2.5000 (4.0 s of audio)") != std::string::npos);
  CHECK(text.find("time outside the network: 5.56 %") != std::string::npos);

  const samples::Folder folder;
  internal::write_statistics(folder.path, statistics);
  CHECK(internal::read_text(folder.path / "test_perform_static.txt") == text);
}

TEST_CASE("state keeps the first reason and gives each job once") {
  internal::RunState state(1, 0, false);
  CHECK(state.take_job() == 0);
  CHECK(state.take_job() == 1);
  CHECK(state.stopped() == 0);
  CHECK(state.stop(15));
  CHECK(!state.stop(internal::RunState::kRefused));
  CHECK(state.stopped() == 15);
}
