# The limits that a reader relies on, for C sources; style.sh runs it once over all of them.
# Each fault is printed as "FILE:LINE: what". At the end "functions N" for the record.
#
# SPDX-License-Identifier: MIT

function fault(line, what) {
    print name ":" line ": " what
}

function end_file() {
    if (name == "")
        return
    if (lines > lines_max)
        fault(lines, "the file is longer than " lines_max " lines")
    if (heading !~ /[A-Za-z].*[.:]/ || heading_words < 6)
        fault(1, "the file does not begin with a paragraph about what lives here")
    if (!licence)
        fault(1, "no SPDX-License-Identifier: MIT in the heading")
}

FNR == 1 {
    end_file()
    name = FILENAME
    sub("^" root "/", "", name)
    lines = licence = heading_words = body_start = 0
    heading = ""
    in_heading = /^\/\*/
}

{
    lines = FNR
}

in_heading {
    heading = heading " " $0
    heading_words += NF
    if (/SPDX-License-Identifier: MIT/)
        licence = 1
    if (/\*\//)
        in_heading = 0
}

/\t/ {
    fault(FNR, "a tab")
}

/[ \t]$/ {
    fault(FNR, "white space at the end of the line")
}

length($0) > columns_max {
    fault(FNR, "longer than " columns_max " columns")
}

# With the house layout a function's body is what stands between two braces in column one.
/^\{$/ {
    body_start = FNR
}

/^\}/ {
    if (body_start) {
        functions++
        if (FNR - body_start - 1 > function_lines_max)
            fault(body_start, "the function has " FNR - body_start - 1 " lines: more than " \
                function_lines_max)
    }
    body_start = 0
}

END {
    end_file()
    print "functions " functions + 0
}
