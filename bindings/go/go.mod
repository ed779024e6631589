module github.com/iokv/iokv/bindings/go

go 1.19
