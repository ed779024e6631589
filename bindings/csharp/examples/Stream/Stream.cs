// SPDX-License-Identifier: Apache-2.0
// Prints the text that follows some tokens: dotnet run -- 1 2 3
using System;
using System.Linq;
using System.Text;
using Iokv;

internal static class Stream
{
    public static void Main(string[] arguments)
    {
        Decoder decoder = Encoding.UTF8.GetDecoder(); // a token may be a part of a character
        var text = new char[1024];
        using (var client = new Client())
        using (Sequence sequence = client.Open())
        {
            var options = new StepOptions
            {
                Tokens = arguments.Select(int.Parse).ToArray(),
                MaxTokens = 64,
                StopTokens = client.Info.EndTokens,
            };
            foreach (Token token in sequence.Step(options).Tokens())
            {
                byte[] bytes = client.TokenBytes(token.Id);
                Console.Write(text, 0, decoder.GetChars(bytes, 0, bytes.Length, text, 0));
            }
        }
    }
}
