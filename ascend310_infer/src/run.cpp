#include "run.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>
#include <sstream>
#include <thread>

#include "board.h"
#include "description.h"
#include "engine.h"
#include "errors.h"
#include "files.h"
#include "plan.h"
#include "recordings.h"
#include "report.h"
#include "sink.h"
#include "source.h"
#include "utterances.h"
#include "worker.h"

namespace infer {
namespace {

Board* g_board = nullptr;  // for the signal handler

extern "C" void on_signal(int number) { g_board->stop(number); }

// Once: a second Ctrl-C ends the program at once, and what is written is whole even then.
void catch_signals() {
  struct sigaction action{};
  action.sa_handler = on_signal;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error of `write`, like a full disk
}

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw UsageError(path.string() + ": cannot be made (" + error.message() + ")");
}

Listing listing_of(const Options& options, std::int64_t dimension) {
  return options.index.empty() ? list_folders(options.features, options.lengths, dimension)
                               : list_index(options.index, dimension);
}

// What else results depend on than their inputs: those of another model are not to be kept.
std::string origin_of(const Options& options, const Description& description,
                      const std::string& target) {
  std::ostringstream origin;
  for (const Bucket& bucket : description.buckets)
    origin << bucket.file.filename().string() << ", changed " << changed(bucket.file) << "\n";
  origin << description.path.string() << ", changed " << changed(description.path) << "\n"
         << "on " << target << " " << options.engine << " " << options.precision << ", longest "
         << options.longest << ", overlap " << options.overlap << "\n";
  return origin.str();
}

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Without it the next start does everything again, so that no run ends over it.
void keep(const fs::path& note, const std::string& origin) {
  try {
    write_atomically(note, origin.data(), origin.size());
  } catch (const std::exception&) {
  }
}

// No result that is there now may be taken for one of this start.
void remove_stale(const Listing& listing, const fs::path& results) {
  const auto remove = [&results](const std::string& name) {
    std::error_code ignored;  // what cannot be removed cannot be written anew: said then
    for (const int which : {0, 1}) fs::remove(result_file(results, name, which), ignored);
  };
  for (const Utterance& utterance : listing.good) remove(utterance.name);
  for (const Refused& refused : listing.bad)
    if (refused.name.find('/') == std::string::npos) remove(refused.name);  // else no name of ours
}

// Leaves those that need doing; returns the number of the others. since: when the model, or what
// else results depend on, became this one; what is older may be another's, left by a run over other
// utterances.
std::size_t drop_finished(std::vector<Utterance>& utterances, const Description& description,
                          const fs::path& results, std::int64_t since) {
  const std::size_t before = utterances.size();
  const auto done = [&](const Utterance& utterance) {
    return finished(results, utterance.name, description.labels,
                    std::max(since, changed(utterance.file)));
  };
  utterances.erase(std::remove_if(utterances.begin(), utterances.end(), done), utterances.end());
  return before - utterances.size();
}

void say_split(const Plan& plan, std::ostream& out) {
  if (plan.split > 0)
    out << plan.split << (plan.split == 1 ? " utterance is" : " utterances are")
        << " longer than the longest input of the network (" << plan.longest
        << " frames): split into parts that share " << plan.overlap
        << " frames or more, and joined\n";
}

struct Fleet {
  const EngineKind& kind;
  std::vector<EngineOptions> engines;  // one for each process
};

Fleet make_fleet(const Options& options, const std::string& target, std::size_t jobs) {
  Fleet fleet{choose_engine(options.engine, target), {}};
  // Round the devices first, so that few jobs are spread over all of them.
  for (int instance = 0; instance < options.instances; ++instance)
    for (const int device : options.devices)
      if (fleet.engines.size() < jobs)
        fleet.engines.push_back(
            {target, device, options.threads, options.precision, options.python});
  const std::size_t cores = std::max(1U, std::thread::hardware_concurrency());
  if (target == "CPU" && options.threads == 0 && fleet.engines.size() > 1)
    for (EngineOptions& engine : fleet.engines)
      engine.threads = static_cast<int>(std::max<std::size_t>(1, cores / fleet.engines.size()));
  return fleet;
}

// One process's work. What it throws has stopped all of them.
void work_alone(std::size_t index, const Fleet& fleet, const Work& work, Sink& sink, Board& board) {
  try {
    const std::unique_ptr<Engine> engine = fleet.kind.make(fleet.engines[index]);
    run_worker(index, *engine, work, sink, board);
  } catch (const std::exception& error) {
    if (board.stop(Board::kRefused)) std::cerr << "error: " << error.what() << std::endl;
  }
}

using SinkOf = std::function<Sink&(std::size_t process)>;

void work_together(const Fleet& fleet, const Work& work, const SinkOf& sink, Board& board) {
  std::cout.flush();
  const pid_t parent = ::getpid();
  std::vector<pid_t> children;
  for (std::size_t i = 0; i < fleet.engines.size(); ++i) {
    const pid_t child = ::fork();
    if (child < 0) {
      board.stop(Board::kRefused);
      std::cerr << "error: no further process can be started\n";
      break;
    }
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGTERM);
      if (::getppid() == parent) work_alone(i, fleet, work, sink(i), board);
      std::cout.flush();
      ::_exit(0);
    }
    children.push_back(child);
  }
  for (std::size_t left = children.size(); left > 0;) {
    int status = 0;
    const pid_t child = ::waitpid(-1, &status, 0);
    if (child < 0 && errno == EINTR) continue;
    if (child < 0) break;
    --left;
    // Ours end with 0; a library, such as a card's, may end the process by itself.
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    const auto index = std::find(children.begin(), children.end(), child) - children.begin();
    std::cerr << "error: the process on device "
              << fleet.engines[static_cast<std::size_t>(index)].device << " was ended by "
              << (WIFSIGNALED(status)
                      ? "signal " + std::to_string(WTERMSIG(status)) +
                            " (9: often for want of memory)"
                      : "its libraries, with exit code " + std::to_string(WEXITSTATUS(status)))
              << "; its utterances are not done\n";
    board.arrive();  // the others may wait for it
  }
}

struct Ended {
  Figures figures;
  int stopped = 0;  // as the board has it
};

// Does the utterances of a listing.
Ended work_on(const Options& options, const Description& description, const std::string& target,
              const Listing& listing, const Source& source, const SinkOf& sink,
              std::ostream& notices) {
  const std::vector<Utterance>& utterances = listing.good;
  const Plan plan =
      make_plan(utterances, description, {options.batch, options.longest, options.overlap});
  say_split(plan, notices);

  const Fleet fleet = make_fleet(options, target, plan.jobs.size());
  Board board(fleet.engines.size(), utterances.size());
  g_board = &board;
  catch_signals();
  const Work work{description, utterances, plan, source};
  if (fleet.engines.size() == 1)
    work_alone(0, fleet, work, sink(0), board);
  else
    work_together(fleet, work, sink, board);

  Ended ended{collect(board, fleet.engines.size(), utterances, description.frame_seconds),
              board.stopped()};
  ended.figures.engine = fleet.kind.name;
  ended.figures.device = target;
  ended.figures.split = plan.split;
  ended.figures.failed += listing.bad.size();
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
  g_board = nullptr;
  return ended;
}

int exit_code(const Ended& ended) {
  if (ended.stopped == Board::kRefused) return 2;
  if (ended.stopped > 0) return 128 + ended.stopped;
  return ended.figures.failed + ended.figures.undone > 0 ? 1 : 0;
}

void report_refused(const Listing& listing) {
  for (const Refused& refused : listing.bad) report_failure(refused.name, refused.reason);
}

// ---- features

int infer_features(const Options& options, const Description& description,
                   const std::string& target) {
  make_folder(options.results);
  make_folder(options.times);
  Listing listing = listing_of(options, description.dimension);
  report_refused(listing);
  fs::path note = (options.results / "").parent_path();
  note += "_model.txt";  // beside the folder, which holds results alone
  const std::string origin = origin_of(options, description, target);
  const bool same = content_of(note) == origin;
  const std::size_t skipped =
      options.force || !same
          ? 0
          : drop_finished(listing.good, description, options.results, changed(note));
  remove_stale(listing, options.results);
  if (!same) keep(note, origin);
  const FeatureFiles source(description.dimension);
  ResultFiles sink(options.results);
  Ended ended = work_on(
      options, description, target, listing, source, [&sink](std::size_t) -> Sink& { return sink; },
      std::cout);

  Figures& figures = ended.figures;
  figures.skipped = skipped;
  std::cout << figures.done << " done, " << figures.failed << " failed, " << figures.undone
            << " not done, " << figures.skipped << " were done before\n";
  if (figures.done > 0) {
    write_figures(options.times, figures);
    std::cout << figures_text(figures) << "figures are in " << options.times.string() << "\n";
  }
  if (ended.stopped == Board::kUnwritable)
    std::cerr << "error: stopped, for results cannot be written\n";
  if (ended.stopped > 0)
    std::cerr << "stopped by signal " << ended.stopped << "; the same command goes on\n";
  return exit_code(ended);
}

// ---- recordings

int transcribe(const Options& options, const Description& description, const std::string& target) {
  std::vector<std::string> paths = options.audio;
  if (!options.audio_list.empty())
    for (std::string& path : read_audio_list(options.audio_list)) paths.push_back(std::move(path));
  if (options.json && description.frame_stride == 0)
    throw UsageError(description.path.string() +
                     ": names no \"frame_stride\", without which words have no times; export the "
                     "model anew");
  if (!options.times.empty()) make_folder(options.times);
  const Recordings recordings = open_recordings(paths, description);
  report_refused(recordings.listing);
  const TextStyle style{options.json, paths.size() == 1 && options.audio_list.empty(),
                        description.frame_seconds * static_cast<double>(description.frame_stride)};
  std::vector<std::unique_ptr<Texts>> texts;
  for (std::size_t i = 0; i < options.devices.size() * static_cast<std::size_t>(options.instances);
       ++i)
    texts.push_back(std::make_unique<Texts>(description.alphabet, style));
  const Ended ended = work_on(
      options, description, target, recordings.listing, *recordings.source,
      [&texts](std::size_t process) -> Sink& { return *texts[process]; }, std::cerr);

  std::vector<std::string> lines(recordings.listing.good.size());
  for (const auto& some : texts) some->collect(lines);
  for (const std::string& line : lines) std::cout << line;
  if (!options.times.empty() && ended.figures.done > 0) write_figures(options.times, ended.figures);
  if (ended.stopped > 0)
    std::cerr << "stopped by signal " << ended.stopped << "; " << ended.figures.undone
              << " recordings are not done\n";
  if (!std::cout.flush()) throw OutputError("standard output: texts cannot be written");
  return exit_code(ended);
}

}  // namespace

int run(const Options& options) {
  const Description description = read_description(options.model);
  const std::string target = !options.target.empty()          ? options.target
                             : description.device == "Ascend" ? "Ascend"
                                                              : "CPU";
  choose_engine(options.engine, target);
  for (const std::string& note : check_models(description, target))
    std::cerr << "note: " << note << "\n";
  return options.transcribes() ? transcribe(options, description, target)
                               : infer_features(options, description, target);
}

}  // namespace infer
