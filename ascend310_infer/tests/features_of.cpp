// Computes features of recordings, for tests. Every line of standard input names a description, a
// recording and an output file for float32 features (bin, frame). Prints a line each: the number of
// frames and the start in seconds, or the reason of a failure.

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
