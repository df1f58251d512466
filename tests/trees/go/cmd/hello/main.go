package main

import (
	"net"
	"os"

	"github.com/pkg/errors"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		panic(errors.Wrap(err, "listen"))
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		conn.Read(make([]byte, 4096))
		conn.Write([]byte("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\nfrom a mod"))
		conn.Close()
	}
}
