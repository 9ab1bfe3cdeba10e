// Features of recordings, for tests. Standard input: description, recording, and output, which is
// float32 (bin, frame), a word each; standard output: a line each, frames and start in seconds, or
// why not.

#include <iostream>

#include "description.h"
#include "errors.h"
#include "recordings.h"

namespace internal = speech::internal;

int main() {
  for (std::string description, recording, output;
       std::cin >> description >> recording >> output;) {
    const internal::Recordings found =
        internal::open_recordings({recording}, internal::read_description(description));
    for (const internal::Rejected& rejected : found.list.rejected)
      std::cout << rejected.reason << "\n";
    for (const internal::Utterance& utterance : found.list.accepted) try {
        const std::vector<float> features = found.source->features(0, utterance);
        internal::write_atomically(output, features.data(), features.size() * sizeof(float));
        std::cout << utterance.frames << " " << utterance.start_s << "\n";
      } catch (const internal::InputError& error) {
        std::cout << error.what() << "\n";
      }
  }
}
