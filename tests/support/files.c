/* Files and commands (files.h). */
#include "tests/support/files.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

char *read_text(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    size_t size = 0, capacity = 1 << 16;
    char *text = malloc(capacity);
    while (text) {
        size += fread(text + size, 1, capacity - size - 1, file);
        if (size + 1 < capacity) break;
        char *grown = realloc(text, capacity *= 2);
        if (!grown) free(text);
        text = grown;
    }
    if (text) text[size] = 0;
    fclose(file);
    return text;
}

bool write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "wb");
    if (!file) return false;
    bool ok = fputs(text, file) >= 0;
    return fclose(file) == 0 && ok;
}

static bool ends_in(const char *name, const char *const *suffixes) {
    size_t n = strlen(name);
    for (; *suffixes; suffixes++) {
        size_t k = strlen(*suffixes);
        if (n > k && strcmp(name + n - k, *suffixes) == 0) return true;
    }
    return false;
}

int each_source(const char *root, const char *folder, const char *const *suffixes,
                void (*fn)(void *user, const char *path, const char *text), void *user) {
    char full[1024], path[512];
    snprintf(full, sizeof full, "%s/%s", root, folder);
    DIR *dir = opendir(full);
    if (!dir) return 0;
    int count = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        struct stat info;
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s%s%s", folder, folder[0] ? "/" : "", entry->d_name);
        if (snprintf(full, sizeof full, "%s/%s", root, path) >= (int)sizeof full ||
            stat(full, &info))
            continue;
        if (S_ISDIR(info.st_mode)) {
            count += each_source(root, path, suffixes, fn, user);
        } else if (ends_in(path, suffixes)) {
            char *text = read_text(full);
            if (text) fn(user, path, text);
            free(text);
            count++;
        }
    }
    closedir(dir);
    return count;
}

void blank_comments(char *text, bool strings_too) {
    for (char *p = text; *p;) {
        if (p[0] == '/' && p[1] == '*') {
            char *end = strstr(p + 2, "*/");
            end = end ? end + 2 : p + strlen(p);
            for (; p < end; p++)
                if (*p != '\n') *p = ' ';
        } else if (p[0] == '/' && p[1] == '/') {
            while (*p && *p != '\n') *p++ = ' ';
        } else if (*p == '"' || *p == '\'') {
            char quote = *p++;
            while (*p && *p != quote && *p != '\n') {
                if (*p == '\\' && p[1] && p[1] != '\n') {
                    if (strings_too) *p = ' ';
                    p++;
                }
                if (strings_too) *p = ' ';
                p++;
            }
            if (*p) p++;
        } else {
            p++;
        }
    }
}

int run_command(const char *command, char *out, size_t size) {
    char line[4096];
    if (snprintf(line, sizeof line, "( %s ) 2>&1", command) >= (int)sizeof line) return -1;
    FILE *pipe = popen(line, "r");
    if (!pipe) return -1;
    size_t n = fread(out, 1, size - 1, pipe);
    out[n] = 0;
    while (fread(line, 1, sizeof line, pipe) > 0) {} /* let it finish */
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool make_folder(char path[64]) {
    strcpy(path, "/tmp/bobbin-test-XXXXXX");
    return mkdtemp(path) != NULL;
}

void remove_folder(const char *path) {
    char command[128], out[16];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    run_command(command, out, sizeof out);
}
