// Command greeter answers every request with a greeting. It uses the standard library alone, so that
// it can run in an image that holds nothing else.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"time"
)

func greet(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	if name == "" {
		name = "world"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "hello, %s\n", name)
}

// check greets once without a network, and says whether the answer is right.
func check() error {
	answer := httptest.NewRecorder()
	greet(answer, httptest.NewRequest(http.MethodGet, "/?name=cairn", nil))
	if got := answer.Body.String(); got != "hello, cairn\n" {
		return fmt.Errorf("unexpected answer %q", got)
	}
	return nil
}

func main() {
	listen := flag.String("listen", ":8080", "address to listen on")
	checkOnly := flag.Bool("check", false, "greet once, print ok and exit")
	flag.Parse()

	if *checkOnly {
		if err := check(); err != nil {
			log.Fatal(err)
		}
		fmt.Fprintln(os.Stdout, "ok")
		return
	}

	server := &http.Server{
		Addr:              *listen,
		Handler:           http.HandlerFunc(greet),
		ReadHeaderTimeout: 5 * time.Second,
	}
	log.Printf("listening on %s", *listen)
	log.Fatal(server.ListenAndServe())
}
