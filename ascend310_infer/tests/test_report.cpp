#include "check.h"
#include "json.h"
#include "report.h"
#include "samples.h"

TEST(percentiles_are_of_the_nearest_rank) {
  std::vector<float> values;
  for (int i = 100; i > 0; --i) values.push_back(static_cast<float>(i));
  CHECK(infer::percentile(values, 50) == 50 && infer::percentile(values, 99) == 99);
  CHECK(infer::percentile(values, 100) == 100 && infer::percentile(values, 0) == 1);
  CHECK(infer::percentile({3, 1}, 50) == 1 && infer::percentile({3, 1}, 51) == 3);
  CHECK(infer::percentile({}, 50) == 0);
}

TEST(figures_are_collected_from_the_board) {
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
  CHECK(figures.done == 2 && figures.failed == 1 && figures.undone == 1 && figures.batches == 5);
  CHECK(figures.load_s == 3 && figures.wall_s == 10 && figures.peak_mib == 3);
  CHECK(figures.audio_s == 4 && figures.outside == 1.0 / 18);

  const infer::Json json = infer::Json::parse(infer::figures_json(figures));
  CHECK(*json.find("real_time_factor")->number() == 2.5);
  CHECK(*json.find("utterances_per_second")->number() == 0.2);
  CHECK(*json.find("network_ms")->find("p100")->number() == 20);
  CHECK(*json.find("network_ms")->find("mean")->number() == 10);
  const std::string text = infer::figures_text(figures);
  CHECK(text.find("real-time factor 2.5000 (4.0 s of audio)") != std::string::npos);
  CHECK(text.find("time outside the network: 5.56 %") != std::string::npos);

  const samples::Folder folder;
  infer::write_figures(folder.path, figures);
  CHECK(infer::read_text(folder.path / "test_perform_static.txt") == text);
}

TEST(board_keeps_the_first_reason_and_gives_each_job_once) {
  infer::Board board(1, 0);
  CHECK(board.take_job() == 0 && board.take_job() == 1);
  CHECK(board.stopped() == 0);
  CHECK(board.stop(15) && !board.stop(infer::Board::kRefused));
  CHECK(board.stopped() == 15);
}
