#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "json.h"
#include "report.h"
#include "samples.h"

TEST_CASE("percentiles are of the nearest rank") {
  std::vector<float> values;
  for (int i = 100; i > 0; --i) values.push_back(static_cast<float>(i));
  CHECK(infer::percentile(values, 50) == 50);
  CHECK(infer::percentile(values, 99) == 99);
  CHECK(infer::percentile(values, 100) == 100);
  CHECK(infer::percentile(values, 0) == 1);
  CHECK(infer::percentile({3, 1}, 50) == 1);
  CHECK(infer::percentile({3, 1}, 51) == 3);
  CHECK(infer::percentile({}, 50) == 0);
}

TEST_CASE("figures are collected from the board") {
  infer::Board board(2, 4);
  board.worker(0) = {2, 10, 9, 3, 1024};
  board.worker(1) = {3, 8, 8, 2, 2048};
  board.utterance(0).state = infer::State::kDone;
  board.utterance(0).network_ms = 20;
  board.utterance(0).total_ms = 30;
  board.utterance(1).state = infer::State::kFailed;
  board.utterance(2).state = infer::State::kDone;
  const std::vector<infer::Utterance> utterances{{"", "", 100}, {"", "", 1}, {"", "", 300}, {}};
  const infer::Figures figures = infer::collect(board, 2, utterances, 0.01);
  CHECK(figures.done == 2);
  CHECK(figures.failed == 1);
  CHECK(figures.undone == 1);
  CHECK(figures.batches == 5);
  CHECK(figures.load_s == 3);
  CHECK(figures.wall_s == 10);
  CHECK(figures.peak_mib == 3);
  CHECK(figures.audio_s == 4);
  CHECK(figures.outside == 1.0 / 18);

  const infer::Json json = infer::parse_json(infer::figures_json(figures));
  CHECK(json.at("real_time_factor").get<double>() == 2.5);
  CHECK(json.at("utterances_per_second").get<double>() == 0.2);
  CHECK(json.at("network_ms").at("p100").get<double>() == 20);
  CHECK(json.at("network_ms").at("mean").get<double>() == 10);
  const std::string text = infer::figures_text(figures);
  CHECK(text.find("real-time factor 2.5000 (4.0 s of audio)") != std::string::npos);
  CHECK(text.find("time outside the network: 5.56 %") != std::string::npos);

  const samples::Folder folder;
  infer::write_figures(folder.path, figures);
  CHECK(infer::read_text(folder.path / "test_perform_static.txt") == text);
}

TEST_CASE("board keeps the first reason and gives each job once") {
  infer::Board board(1, 0);
  CHECK(board.take_job() == 0);
  CHECK(board.take_job() == 1);
  CHECK(board.stopped() == 0);
  CHECK(board.stop(15));
  CHECK(!board.stop(infer::Board::kRefused));
  CHECK(board.stopped() == 15);
}
