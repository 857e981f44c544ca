/* Stands for a program that Windows has and wine has not: ssh.exe, ssh-keygen.exe, openssl.exe.
 *
 * Wine can start a Linux program, but can neither give it a pipe nor wait for it. So this one sends
 * its name, folder and arguments to tests/windows/unix_programs.py over loopback, and passes on what
 * the real program of Linux reads and writes, and its exit code. The port is in a file beside it.
 *
 * Frames both ways: one byte (0 stdin, 1 stdout, 2 stderr, 3 exit code, 4 a text of the beginning),
 * four bytes of size in network order, and the data. An empty frame ends a stream.
 */
#define WIN32_LEAN_AND_MEAN
#include <winsock2.h>
#include <windows.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

static SOCKET line;

static void put(char kind, const char *data, int size)
{
    char head[5];
    unsigned long length = htonl((unsigned long)size);
    head[0] = kind;
    memcpy(head + 1, &length, 4);
    send(line, head, 5, 0);
    while (size > 0) {
        int sent = send(line, data, size, 0);
        if (sent <= 0) ExitProcess(255);
        data += sent;
        size -= sent;
    }
}

static int take(char *data, int size)
{
    while (size > 0) {
        int got = recv(line, data, size, 0);
        if (got <= 0) return 0;
        data += got;
        size -= got;
    }
    return 1;
}

static void put_text(const wchar_t *text)
{
    char data[32768];
    int size = WideCharToMultiByte(CP_UTF8, 0, text, -1, data, sizeof data, NULL, NULL);
    put(4, data, size > 0 ? size - 1 : 0);
}

static DWORD WINAPI read_input(void *unused)
{
    char data[65536];
    DWORD got;
    HANDLE in = GetStdHandle(STD_INPUT_HANDLE);
    (void)unused;
    while (ReadFile(in, data, sizeof data, &got, NULL) && got > 0) put(0, data, (int)got);
    put(0, data, 0);
    return 0;
}

static void write_all(DWORD which, const char *data, DWORD size)
{
    HANDLE out = GetStdHandle(which);
    DWORD written;
    while (size > 0 && WriteFile(out, data, size, &written, NULL)) {
        data += written;
        size -= written;
    }
}

int wmain(int argc, wchar_t **argv)
{
    WSADATA facts;
    struct sockaddr_in address;
    wchar_t own[MAX_PATH], folder[MAX_PATH], *slash;
    int port = 0, number, nodelay = 1;
    FILE *beside;

    GetModuleFileNameW(NULL, own, MAX_PATH);
    slash = wcsrchr(own, L'\\');
    wcscpy(folder, own);
    wcscpy(wcsrchr(folder, L'\\') + 1, L"port.txt");
    beside = _wfopen(folder, L"r");
    if (beside == NULL || fscanf(beside, "%d", &port) != 1) return 254;
    fclose(beside);

    WSAStartup(MAKEWORD(2, 2), &facts);
    line = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((unsigned short)port);
    if (connect(line, (struct sockaddr *)&address, sizeof address) != 0) return 254;
    setsockopt(line, IPPROTO_TCP, TCP_NODELAY, (const char *)&nodelay, sizeof nodelay);

    put_text(slash + 1);
    GetCurrentDirectoryW(MAX_PATH, folder);
    put_text(folder);
    for (number = 1; number < argc; number++) put_text(argv[number]);
    put(3, "", 0);
    CreateThread(NULL, 0, read_input, NULL, 0, NULL);

    for (;;) {
        char head[5], *data;
        unsigned long size;
        if (!take(head, 5)) return 255;
        memcpy(&size, head + 1, 4);
        size = ntohl(size);
        data = malloc(size + 1);
        if (data == NULL || !take(data, (int)size)) return 255;
        data[size] = 0;
        if (head[0] == 3) ExitProcess((UINT)atoi(data));
        write_all(head[0] == 1 ? STD_OUTPUT_HANDLE : STD_ERROR_HANDLE, data, size);
        free(data);
    }
}
