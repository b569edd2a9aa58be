#!/usr/bin/env bash
# Calls that do not belong into the program: banned.sh [ROOT]. Each with its reason, and the files where it is right.
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/../..}"

find src include -name '*.[ch]' | sort | perl -e '
use strict;
use warnings;

# names, where they may stand ("": nowhere), why not
my @BANNED = (
    ["strcpy|stpcpy|strcat|strncat", "", "no bound: snprintf, or struct buffer"],
    ["sprintf|vsprintf|gets", "", "no bound: snprintf, getline"],
    ["strtok", "", "keeps state between its callers: strsep"],
    ["atoi|atol|atoll|atof", "", "cannot say that it failed: strtoll, strtod"],
    ["alloca", "", "a stack cannot say that it is full"],
    ["system|popen", "", "runs a shell"],
    ["tmpnam|tempnam|mktemp", "", "a race: mkstemp, mkdtemp"],
    ["signal", "src/cli/serve.c", "handlers are the whole process\x27s affair: main alone"],
    ["MHD_create_post_processor", "", "buffers and trusts too much: http/multipart.h"],
    ["json_loads|json_loadb|json_loadf|json_load_file|json_load_callback", "src/base/json.c|src/cli/\\w+.c",
     "what comes from outside is parsed by base/json.h, with its limits"],
    ["rand|srand|random|drand48", "", "differs between systems: engine/random.h, or getrandom"],
    ["asctime|ctime|gmtime|localtime", "", "not safe in threads: the _r function"],
);

my ($n_files, $n_wrong) = (0, 0);
while (my $file = <STDIN>) {
    chomp $file;
    open my $in, "<", $file or die "$file: $!";
    local $/;
    my $code = <$in>;
    $n_files++;
    # Comments and literals go, lines stay.
    $code =~ s{("(?:\\.|[^"\\\n])*")|(\x27(?:\\.|[^\x27\\\n])*\x27)|/\*.*?\*/|//[^\n]*}
              {my $n = ($& =~ tr/\n//); defined $1 ? q("") : defined $2 ? "0" : " " . "\n" x $n}gsex;
    for my $row (@BANNED) {
        my ($names, $where, $why) = @$row;
        next if $where ne "" and $file =~ /^(?:$where)$/;
        while ($code =~ /(?<![\w.>])($names)\s*\(/g) {
            my ($name, $line) = ($1, 1 + (substr($code, 0, $-[1]) =~ tr/\n//));
            print "$file:$line: $name: $why\n";
            $n_wrong++;
        }
    }
}
print "banned: $n_files files, $n_wrong calls\n";
exit($n_wrong > 0 || $n_files == 0);
'
