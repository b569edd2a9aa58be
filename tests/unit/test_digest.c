#include "base/digest.h"

#include <stdlib.h>
#include <string.h>

#include "support/check.h"

/* FIPS 180-4 examples. */
static const char EMPTY[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
static const char ABC[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
static const char MILLION[] = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

static void known_texts_have_their_known_digests(void **state)
{
    char hex[DIGEST_HEX_SIZE];
    (void)state;
    digest_hex(NULL, 0, hex);
    assert_string_equal(hex, EMPTY);
    digest_hex("abc", 3, hex);
    assert_string_equal(hex, ABC);
}

static void pieces_give_the_digest_of_the_whole(void **state)
{
    char hex[DIGEST_HEX_SIZE], piece[999];
    (void)state;
    memset(piece, 'a', sizeof piece);
    struct digest *digest = digest_create();
    for (size_t left = 1000000, n; left; left -= n) {
        n = left % sizeof piece ? left % sizeof piece : sizeof piece;
        digest_update(digest, piece, n);
        digest_update(digest, NULL, 0);
    }
    digest_finish_hex(digest, hex);
    assert_string_equal(hex, MILLION);
    digest_destroy(digest_create());
    digest_destroy(NULL);
}

static void only_64_lower_case_hex_digits_are_valid(void **state)
{
    char text[80];
    (void)state;
    assert_true(digest_hex_is_valid(ABC));
    assert_false(digest_hex_is_valid(""));
    strcpy(text, ABC);
    text[10] = 'A';
    assert_false(digest_hex_is_valid(text));
    strcpy(text, ABC);
    text[63] = '\0';
    assert_false(digest_hex_is_valid(text));
    strcpy(text, ABC);
    strcat(text, "0");
    assert_false(digest_hex_is_valid(text));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_texts_have_their_known_digests),
        cmocka_unit_test(pieces_give_the_digest_of_the_whole),
        cmocka_unit_test(only_64_lower_case_hex_digits_are_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
