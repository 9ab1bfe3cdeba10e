// Reads recordings, for tests. Every line of standard input names one, and a file for its samples
// (float32). Prints a line each: sample rate, channels and samples as the header tells them, and
// the samples that were read; or the reason of a failure.

#include <iostream>

#include "audio.h"
#include "errors.h"
#include "files.h"

namespace internal = speech::internal;

int main() {
  for (std::string recording, output; std::cin >> recording >> output;) try {
      const internal::AudioInfo info = internal::audio_info(recording);
      const speech::Audio audio = speech::read_audio(recording);
      internal::write_atomically(output, audio.samples.data(),
                                 audio.samples.size() * sizeof(float));
      std::cout << info.sample_rate << " " << info.channels << " " << info.samples << " "
                << audio.samples.size() << "\n";
    } catch (const internal::InputError& error) {
      std::cout << error.what() << "\n";
    }
}
