/* TensorBoard's event files: framing, checksums, messages, decoded by tests/tools/events_reader.h.
 */
#include "tests/tools/events_reader.h"

/* RFC 3720, appendix B.4, and the check value of the CRC catalogue. */
static void checksums(test *t) {
    unsigned char bytes[32];
    CHECK_INT(t, bb_crc32c("123456789", 9), 0xe3069283);
    memset(bytes, 0, 32);
    CHECK_INT(t, bb_crc32c(bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, 32);
    CHECK_INT(t, bb_crc32c(bytes, 32), 0x62a8ab43);
    CHECK_INT(t, bb_crc32c("", 0), 0);
}

static void comes_back(test *t) {
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    bb_context *ctx = test_open();
    bb_events events;
    char path[256];
    snprintf(path, sizeof path, "%s/metrics.csv", f.path);
    CHECK_INT(t, bb_events_open(ctx, &events, path), BB_OK);
    const bb_event_scalar two[] = {{"loss/train", 1.5}, {"lr", 1e-30}};
    const bb_event_scalar one = {"another", -INFINITY};
    bb_events_add(&events, 1, 1234.5, two, 2);
    bb_events_add(&events, INT64_MAX, 1e9, &one, 1);
    CHECK_INT(t, bb_events_flush(ctx, &events), BB_OK);
    CHECK_INT(t, bb_events_close(ctx, &events), BB_OK);
    read_events got;
    CHECK_INT(t, read_event_folder(&f, ".", &got), 1);
    CHECK_INT(t, got.versions, 1);
    CHECK_INT(t, got.starts, 1);
    CHECK_INT(t, got.count, 3);
    CHECK_NEAR(t, event_value(&got, "loss/train", 1), 1.5, 0);
    CHECK_NEAR(t, event_value(&got, "lr", 1), (double)1e-30f, 0);
    CHECK_NEAR(t, got.value[0].time, 1234.5, 0);
    CHECK_INT(t, got.value[2].step, INT64_MAX);
    CHECK(t, isinf(got.value[2].value) && strcmp(got.value[2].tag, "another") == 0);
    bb_close(ctx);
    scratch_close(&f);
}

static void full_disk(test *t) {
    bb_context *ctx = test_open();
    bb_events events = {.file = fopen("/dev/full", "wb"), .path = "/dev/full"};
    events.event.ctx = events.summary.ctx = events.value.ctx = ctx;
    if (events.file) {
        bb_events_add(&events, 1, 1, &(bb_event_scalar){"lr", 1}, 1);
        CHECK_INT(t, bb_events_flush(ctx, &events), BB_ERR_IO);
        CHECK_ERROR(t, ctx, BB_ERR_IO, "/dev/full: cannot write");
        CHECK_INT(t, bb_events_close(ctx, &events), BB_ERR_IO);
        CHECK_ERROR(t, ctx, BB_ERR_IO, "/dev/full: cannot write");
    }
    CHECK_INT(t, bb_events_open(ctx, &events, "/no/such/folder/x"), BB_ERR_IO);
    CHECK_ERROR(t, ctx, BB_ERR_IO, "cannot open");
    bb_close(ctx);
}

static const test_row rows[] = {
    {"checksums", checksums}, {"comes back", comes_back}, {"full disk", full_disk}};
TEST_MAIN(rows)
