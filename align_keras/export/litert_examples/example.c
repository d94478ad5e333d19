/* Embeds one image, or one text, by a LiteRT file, in C alone.
 *
 *   example image.tflite image.ppm         pixels as metadata.json says:
 *     magick image.jpg -filter Triangle -resize 192x192! -gravity center \
 *       -crop 160x160+0+0 +repage -depth 8 image.ppm      (S = 160, resize_to = 192)
 *   example text.tflite 101 2417 4418 102    token ids, rows of vocabulary.txt
 *
 * A file exported with --resizable takes an image of any size.
 * Both print the embedding, one number a line; the dot product of two embeddings is
 * their similarity. Build it with LiteRT's library, which Python's package
 * ai-edge-litert brings along and Android's com.google.ai.edge.litert too:
 *
 *   cc example.c -o example -L FOLDER -l:libLiteRt.so -Wl,-rpath,FOLDER
 *
 * where FOLDER is what `python -c "import ai_edge_litert as a; print(*a.__path__)"`
 * prints. The declarations below are the part of LiteRT 2's C API (litert/c/litert_*.h)
 * that is used; with LiteRT's headers at hand, include those.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct LiteRtEnvironmentT* LiteRtEnvironment;
typedef struct LiteRtModelT* LiteRtModel;
typedef struct LiteRtOptionsT* LiteRtOptions;
typedef struct LiteRtCompiledModelT* LiteRtCompiledModel;
typedef struct LiteRtSignatureT* LiteRtSignature;
typedef struct LiteRtTensorT* LiteRtTensor;
typedef struct LiteRtTensorBufferT* LiteRtTensorBuffer;
typedef struct LiteRtTensorBufferRequirementsT* LiteRtTensorBufferRequirements;
typedef size_t LiteRtParamIndex;
enum { kLiteRtStatusOk = 0, kLiteRtHwAcceleratorCpu = 1 };
enum { kLiteRtLockRead = 0, kLiteRtLockWrite = 1 };
enum { kLiteRtElementTypeFloat32 = 1, kLiteRtElementTypeInt32 = 2 };
typedef struct {
  unsigned int rank : 7;
  unsigned int has_strides : 1;
  int32_t dimensions[8];
  uint32_t strides[8];
} LiteRtLayout;
typedef struct {
  int element_type;
  LiteRtLayout layout;
} LiteRtRankedTensorType;

int LiteRtCreateEnvironment(int, const void*, LiteRtEnvironment*);
int LiteRtCreateModelFromFile(LiteRtEnvironment, const char*, LiteRtModel*);
int LiteRtCreateOptions(LiteRtOptions*);
int LiteRtSetOptionsHardwareAccelerators(LiteRtOptions, int);
int LiteRtCreateCompiledModel(LiteRtEnvironment, LiteRtModel, LiteRtOptions,
                              LiteRtCompiledModel*);
int LiteRtGetModelSignature(LiteRtModel, LiteRtParamIndex, LiteRtSignature*);
int LiteRtGetNumSignatureInputs(LiteRtSignature, LiteRtParamIndex*);
int LiteRtGetSignatureInputName(LiteRtSignature, LiteRtParamIndex, const char**);
int LiteRtGetSignatureInputTensorByIndex(LiteRtSignature, LiteRtParamIndex,
                                         LiteRtTensor*);
int LiteRtGetSignatureOutputTensorByIndex(LiteRtSignature, LiteRtParamIndex,
                                          LiteRtTensor*);
int LiteRtGetRankedTensorType(LiteRtTensor, LiteRtRankedTensorType*);
int LiteRtCompiledModelResizeInputTensor(LiteRtCompiledModel, LiteRtParamIndex,
                                         LiteRtParamIndex, const int*, size_t);
int LiteRtGetCompiledModelOutputTensorLayouts(LiteRtCompiledModel, LiteRtParamIndex,
                                              size_t, LiteRtLayout*, bool);
int LiteRtGetCompiledModelInputBufferRequirements(LiteRtCompiledModel,
                                                  LiteRtParamIndex, LiteRtParamIndex,
                                                  LiteRtTensorBufferRequirements*);
int LiteRtGetCompiledModelOutputBufferRequirements(LiteRtCompiledModel,
                                                   LiteRtParamIndex, LiteRtParamIndex,
                                                   LiteRtTensorBufferRequirements*);
int LiteRtCreateManagedTensorBufferFromRequirements(LiteRtEnvironment,
                                                    const LiteRtRankedTensorType*,
                                                    LiteRtTensorBufferRequirements,
                                                    LiteRtTensorBuffer*);
int LiteRtLockTensorBuffer(LiteRtTensorBuffer, void**, int);
int LiteRtUnlockTensorBuffer(LiteRtTensorBuffer);
int LiteRtRunCompiledModel(LiteRtCompiledModel, LiteRtParamIndex, size_t,
                           LiteRtTensorBuffer*, size_t, LiteRtTensorBuffer*);
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel);
void LiteRtDestroyOptions(LiteRtOptions);
void LiteRtDestroyModel(LiteRtModel);
void LiteRtDestroyEnvironment(LiteRtEnvironment);

static void fail(const char* message) {
  fprintf(stderr, "example: error: %s\n", message);
  exit(1);
}

static void check(int status, const char* what) {
  if (status != kLiteRtStatusOk) fail(what);
}

/* Opens a PPM of three bytes a pixel; -1 of the wanted sides becomes the image's. */
static FILE* open_image(const char* path, int32_t* height, int32_t* width) {
  FILE* file = fopen(path, "rb");
  int columns, rows, greatest;
  if (!file) fail("the image can't be opened");
  if (fscanf(file, "P6 %d %d %d", &columns, &rows, &greatest) != 3 || greatest != 255 ||
      columns < 1 || rows < 1)
    fail("the image must be a PPM (P6) of one byte a channel, without comments");
  if (*height < 0) *height = rows;
  if (*width < 0) *width = columns;
  if (columns != *width || rows != *height) {
    fprintf(stderr, "example: error: the image must be %d x %d, received %d x %d\n",
            (int)*width, (int)*height, columns, rows);
    exit(1);
  }
  fgetc(file); /* one white space before the pixels */
  return file;
}

/* Reads pixels as floats from 0 to 255. */
static void read_pixels(FILE* file, long count, float* pixels) {
  for (long i = 0; i < 3 * count; i++) {
    int byte = fgetc(file);
    if (byte == EOF) fail("the image ends too early");
    pixels[i] = (float)byte;
  }
  fclose(file);
}

/* Writes token ids, or 1 for each of them, filled up with 0. */
static void fill_tokens(char** ids, int count, int length, bool mask, int32_t* row) {
  if (count > length) fail("more token ids than the tower takes");
  for (int i = 0; i < length; i++)
    row[i] = i >= count ? 0 : mask ? 1 : (int32_t)atol(ids[i]);
}

int main(int argc, char** argv) {
  if (argc < 3) fail("usage: example TOWER.tflite PICTURE.ppm | TOKEN_ID...");
  LiteRtEnvironment environment;
  LiteRtModel model;
  LiteRtOptions options;
  LiteRtCompiledModel compiled;
  LiteRtSignature signature;
  check(LiteRtCreateEnvironment(0, NULL, &environment), "no LiteRT environment");
  check(LiteRtCreateModelFromFile(environment, argv[1], &model), "no LiteRT file");
  check(LiteRtCreateOptions(&options), "no options");
  check(LiteRtSetOptionsHardwareAccelerators(options, kLiteRtHwAcceleratorCpu), "CPU");
  check(LiteRtCreateCompiledModel(environment, model, options, &compiled),
        "the file can't be prepared");
  check(LiteRtGetModelSignature(model, 0, &signature), "no signature");

  LiteRtTensorBuffer inputs[2], output;
  LiteRtTensorBufferRequirements needs;
  LiteRtRankedTensorType type;
  LiteRtTensor tensor;
  LiteRtParamIndex count;
  void* memory;
  check(LiteRtGetNumSignatureInputs(signature, &count), "no inputs");
  if (count > 2) fail("not a tower of align-keras");
  for (LiteRtParamIndex i = 0; i < count; i++) {
    const char* name;
    check(LiteRtGetSignatureInputName(signature, i, &name), "an input without name");
    check(LiteRtGetSignatureInputTensorByIndex(signature, i, &tensor), "no input");
    check(LiteRtGetRankedTensorType(tensor, &type), "an input without type");
    int32_t* shape = type.layout.dimensions;
    const bool is_open = shape[0] < 0;
    const bool is_image =
        type.element_type == kLiteRtElementTypeFloat32 && type.layout.rank == 4;
    if (!is_image &&
        (type.element_type != kLiteRtElementTypeInt32 || type.layout.rank != 2))
      fail("not a tower of align-keras");
    if (is_open) shape[0] = 1;
    FILE* image = is_image ? open_image(argv[2], &shape[1], &shape[2]) : NULL;
    if (is_open)
      check(LiteRtCompiledModelResizeInputTensor(compiled, 0, i, shape,
                                                 type.layout.rank),
            name);
    check(LiteRtGetCompiledModelInputBufferRequirements(compiled, 0, i, &needs), name);
    check(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type, needs,
                                                          &inputs[i]),
          name);
    check(LiteRtLockTensorBuffer(inputs[i], &memory, kLiteRtLockWrite), name);
    if (is_image)
      read_pixels(image, (long)shape[1] * shape[2], memory);
    else
      fill_tokens(argv + 2, argc - 2, shape[1], name[0] == 'p', memory);
    check(LiteRtUnlockTensorBuffer(inputs[i]), name);
  }
  check(LiteRtGetSignatureOutputTensorByIndex(signature, 0, &tensor), "no output");
  check(LiteRtGetRankedTensorType(tensor, &type), "an output without type");
  check(LiteRtGetCompiledModelOutputTensorLayouts(compiled, 0, 1, &type.layout, true),
        "an output without shape");
  check(LiteRtGetCompiledModelOutputBufferRequirements(compiled, 0, 0, &needs), "output");
  check(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type, needs,
                                                        &output),
        "output");
  check(LiteRtRunCompiledModel(compiled, 0, count, inputs, 1, &output), "it can't run");

  check(LiteRtLockTensorBuffer(output, &memory, kLiteRtLockRead), "output");
  for (int i = 0; i < type.layout.dimensions[1]; i++)
    printf("%.9g\n", ((const float*)memory)[i]);
  check(LiteRtUnlockTensorBuffer(output), "output");

  for (LiteRtParamIndex i = 0; i < count; i++) LiteRtDestroyTensorBuffer(inputs[i]);
  LiteRtDestroyTensorBuffer(output);
  LiteRtDestroyCompiledModel(compiled);
  LiteRtDestroyOptions(options);
  LiteRtDestroyModel(model);
  LiteRtDestroyEnvironment(environment);
  return 0;
}
