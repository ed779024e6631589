// SPDX-License-Identifier: Apache-2.0
// As much of xunit as Iokv.Tests uses, and a runner, for Mono without NuGet. Where the .NET SDK is, `dotnet test` runs the
// same tests with the real one.
using System;
using System.Collections;
using System.Linq;
using System.Reflection;

namespace Xunit
{
    [AttributeUsage(AttributeTargets.Method)]
    public sealed class FactAttribute : Attribute
    {
    }

    public sealed class AssertException : Exception
    {
        public AssertException(string message) : base(message)
        {
        }
    }

    public static class Assert
    {
        public static void True(bool condition)
        {
            if (!condition)
            {
                throw new AssertException("false");
            }
        }

        public static void Equal<T>(T expected, T actual)
        {
            var list = expected as IEnumerable;
            bool same = list != null && !(expected is string)
                ? list.Cast<object>().SequenceEqual(((IEnumerable)actual).Cast<object>())
                : Equals(expected, actual);
            if (!same)
            {
                throw new AssertException("expected " + Shown(expected) + ", was " + Shown(actual));
            }
        }

        private static string Shown(object value)
        {
            var list = value as IEnumerable;
            return list == null || value is string ? "" + value : "[" + string.Join(", ", list.Cast<object>()) + "]";
        }

        public static T Throws<T>(Action call) where T : Exception
        {
            return Throws<T>(() =>
            {
                call();
                return null;
            });
        }

        public static T Throws<T>(Func<object> call) where T : Exception
        {
            try
            {
                call();
            }
            catch (T thrown)
            {
                if (thrown.GetType() == typeof(T))
                {
                    return thrown;
                }
                throw;
            }
            throw new AssertException("no " + typeof(T).Name);
        }
    }

    internal static class Runner
    {
        public static int Main()
        {
            int failed = 0;
            foreach (Type type in Assembly.GetExecutingAssembly().GetTypes())
            {
                foreach (MethodInfo test in type.GetMethods().Where(m => m.IsDefined(typeof(FactAttribute), false)))
                {
                    try
                    {
                        test.Invoke(Activator.CreateInstance(type), null);
                        Console.WriteLine("ok " + test.Name);
                    }
                    catch (TargetInvocationException failure)
                    {
                        failed++;
                        Console.WriteLine("FAILED " + test.Name + ": " + failure.InnerException);
                    }
                }
            }
            Console.WriteLine(failed == 0 ? "all passed" : failed + " failed");
            return failed == 0 ? 0 : 1;
        }
    }
}
