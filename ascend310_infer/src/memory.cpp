#include "memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "description.h"

namespace speech::internal {
namespace {

constexpr double kGib = 1 << 30;
constexpr double kShare = 0.8;  // of the memory; the rest is the system's

std::string formatted(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

}  // namespace

std::int64_t MemoryBudget::most_frames() const {
  constexpr double kMost = 1e15;
  const double frames = (limit_ - forecast_.fixed) / forecast_.per_frame;
  return static_cast<std::int64_t>(std::clamp(std::floor(frames), 0.0, kMost));
}

std::string MemoryBudget::reason(std::int64_t frames, double frame_seconds,
                                 const std::string& option) const {
  const auto length = [&](std::int64_t count) {
    return frame_seconds > 0 ? formatted(frame_seconds * static_cast<double>(count), 0) + " s"
                             : std::to_string(count) + " frames";
  };
  const double needed = forecast_.fixed + forecast_.per_frame * static_cast<double>(frames);
  const std::int64_t most = most_frames();
  const std::string remedy =
      most > 0 ? "cut it into pieces of at most " + length(most) +
                     ", or have it split into parts by " + option + " " + std::to_string(most)
               : "the network alone takes more: run it with fewer processes, or on a machine with "
                 "more memory";
  return length(frames) + " take about " + formatted(needed / kGib, 1) + " GiB to recognise, and " +
         formatted(limit_ / kGib, 1) +
         " GiB are allowed (80 % of this machine's memory, or of this process's limit or share): " +
         remedy;
}

double machine_memory() {
  double total = static_cast<double>(::sysconf(_SC_PAGE_SIZE));
  total *= static_cast<double>(::sysconf(_SC_PHYS_PAGES));
  for (const char* path :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream file(path);
    if (double limit = 0; file >> limit) total = std::min(total, limit);  // "max" is no number
  }
  struct rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    total = std::min(total, static_cast<double>(limit.rlim_cur));
  return total;
}

std::optional<MemoryBudget> memory_budget(const Description& description, const std::string& target,
                                          int processes) {
  if (!description.memory || target != "CPU") return std::nullopt;
  return MemoryBudget(*description.memory, kShare * machine_memory() / std::max(1, processes));
}

}  // namespace speech::internal
