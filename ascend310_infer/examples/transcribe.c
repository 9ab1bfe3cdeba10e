/* Prints the text and the words of recordings:
 *
 *   transcribe MODEL RECORDING...
 *
 * A recording "-" are float32 samples from standard input, at the sample rate of the model.
 *
 *   cc -std=c99 transcribe.c -o transcribe -lspeech_recognizer */

#include <speech/recognizer_c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static speech_result* from_standard_input(const speech_recognizer* recognizer) {
  enum { BLOCK = 4096 };
  float* samples = NULL;
  size_t count = 0, more = BLOCK;
  while (more == BLOCK) {
    float* larger = realloc(samples, (count + BLOCK) * sizeof *samples);
    if (larger == NULL) break;
    samples = larger;
    more = fread(samples + count, sizeof *samples, BLOCK, stdin);
    count += more;
  }
  const int64_t rate = speech_recognizer_sample_rate(recognizer);
  speech_result* result = speech_recognizer_transcribe(recognizer, samples, count, rate);
  free(samples);
  return result;
}

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: transcribe MODEL RECORDING...\n");
    return 2;
  }
  speech_recognizer* recognizer = speech_recognizer_create(argv[1], NULL);
  if (recognizer == NULL) {
    fprintf(stderr, "error: %s\n", speech_last_error());
    return 2;
  }
  int code = 0;
  for (int i = 2; i < argc; ++i) {
    speech_result* result = strcmp(argv[i], "-") == 0
                                ? from_standard_input(recognizer)
                                : speech_recognizer_transcribe_file(recognizer, argv[i]);
    if (result == NULL) {
      fprintf(stderr, "failed: %s\n", speech_last_error());
      code = 1;
      continue;
    }
    printf("%s\n", speech_result_text(result));
    for (size_t number = 0; number < speech_result_word_count(result); ++number) {
      const speech_word word = speech_result_word(result, number);
      printf("  %.3f to %.3f s: %s (%.2f)\n", word.start, word.end, word.text, word.confidence);
    }
    speech_result_destroy(result);
  }
  speech_recognizer_destroy(recognizer);
  return code;
}
